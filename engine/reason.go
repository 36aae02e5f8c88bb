package engine

import "errors"

// Reason says why a connection or a socket ended, in the words of Socket.IO.
type Reason string

// The reasons that Socket.IO names for the server side.
const (
	ReasonClientDisconnect Reason = "client namespace disconnect" // the client sent DISCONNECT
	ReasonServerDisconnect Reason = "server namespace disconnect" // the server disconnected the socket: a kick, an expired token
	ReasonTransportClose   Reason = "transport close"             // the client or the network closed the connection
	ReasonTransportError   Reason = "transport error"             // the connection failed, or a limit of the transport was passed
	ReasonPingTimeout      Reason = "ping timeout"                // the client did not answer a ping in time
	ReasonParseError       Reason = "parse error"                 // the client sent what the protocol does not allow
	ReasonForcedClose      Reason = "forced close"                // CONNECT did not come in time
	ReasonServerClose      Reason = "forced server close"         // the server closed the connection, a slow consumer say
	ReasonShutdown         Reason = "server shutting down"        // the server drains
)

// The errors that both sides of a connection branch on.
var (
	// ErrDraining says that a server takes no new connections: it is shutting down.
	ErrDraining = errors.New("tether: draining")

	// ErrDisconnected says that the sender or its connection is gone.
	ErrDisconnected = errors.New("tether: socket is disconnected")

	// ErrNodeGone says that there is no such node among those that are alive.
	ErrNodeGone = errors.New("tether: there is no such node")

	// ErrSlowConsumer says that the queue of a client is full, and that the client did not get a packet: it
	// reads more slowly than it is written to, or was sent more at once than the queue holds.
	ErrSlowConsumer = errors.New("tether: the queue of the client is full: it reads too slowly, or was sent more at once than the queue holds")
)

// Because is err, after which a connection is closed for the given reason: see [ReasonOf].
func Because(reason Reason, err error) error { return &closing{reason, err} }

// ReasonOf is why a connection must be closed after err, an error of [Receiver.Text] or
// [Receiver.Binary]: ReasonParseError unless it was made by [Because].
func ReasonOf(err error) Reason {
	var c *closing
	if errors.As(err, &c) {
		return c.reason
	}
	return ReasonParseError
}

type closing struct {
	reason Reason
	err    error
}

func (c *closing) Error() string { return c.err.Error() }
func (c *closing) Unwrap() error { return c.err }
