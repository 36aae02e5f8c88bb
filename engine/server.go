package engine

import "net/http"

// Server is what a transport attaches its connections to.
type Server interface {
	// Attach takes over a new connection, which r has asked for, and returns what receives its
	// messages. It is called before the client is answered, and keeps nothing of r. After [ErrDraining]
	// the client is answered with status 503, after any other error with 403.
	Attach(c Conn, r *http.Request) (Receiver, error)
}

// AttachFunc is a function as a [Server].
type AttachFunc func(c Conn, r *http.Request) (Receiver, error)

// Attach calls f.
func (f AttachFunc) Attach(c Conn, r *http.Request) (Receiver, error) { return f(c, r) }

// Receiver is what a connection feeds. Its methods are called for one message at a time, on a goroutine
// that may not be kept: back-pressure is Busy's. One that is a [log/slog.LogValuer] names the user of its client for the
// log, at any time and on any goroutine, also once it is closed.
type Receiver interface {
	// Text receives a message without its Engine.IO type. It does not keep data. An error ends the
	// session, for the reason that [ReasonOf] finds in it.
	Text(data []byte) error

	// Binary receives a binary message, as Text does.
	Binary(data []byte) error

	// Busy is called after each message. While it returns a channel that is not closed, nothing is
	// read from the client, nor is the client given up for a pong that may lie unread. A pause is
	// at most as long as a ping interval and a ping timeout.
	Busy() <-chan struct{}

	// Closed is called once, after the last message, when the session has ended.
	Closed(reason Reason)
}
