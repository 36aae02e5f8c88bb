package transport

import (
	"log/slog"
	"net/http"
	"time"

	"tether/engine"
)

// The names of the transports, as they stand in the query of a request.
const (
	Polling   = "polling"
	WebSocket = "websocket"
)

// Options configure a [Handler]. The zero value is the documented default of every field.
type Options struct {
	// Path is the prefix of the URL paths that are served. Default "/socket.io/".
	Path string

	// PingInterval is the time between a pong, or the handshake, and the next ping. Default 25 s.
	PingInterval time.Duration

	// PingTimeout is how long a pong may take. Default 20 s.
	PingTimeout time.Duration

	// UpgradeTimeout is how long an upgrade from polling to WebSocket may take. Default 10 s.
	UpgradeTimeout time.Duration

	// MaxPayload limits a message from a client, in bytes, on WebSocket also after decompression,
	// and the body of a polling request. Larger ones end the connection, with close code 1009 or
	// status 413. Default 1,000,000.
	MaxPayload int

	// Transports that are served. Default [Polling] and [WebSocket].
	Transports []string

	// NoUpgrade keeps polling clients on polling.
	NoUpgrade bool

	// CORS says which foreign origins are served. Default: none.
	CORS CORS

	// Cookie is a cookie with the session ID that the polling handshake sets, for load balancers.
	// Default: none is set.
	Cookie Cookie

	// Client serves the client's file and its source map, as Path + "socket.io.min.js" for example:
	// clientjs.Handler(). Default: they are not served.
	Client http.Handler

	// CompressPolling is the size in bytes from which the answers to polling requests are compressed with
	// gzip or deflate, if the client takes it. The reference server has 1024. Default 0: none are.
	CompressPolling int

	// Allow refuses a handshake by an error, whose text is sent to the client with status 403.
	// Default: all are allowed.
	Allow func(*http.Request) error

	// GenerateID makes the ID of the session that a request opens: up to 128 letters, digits and "-._~". It is
	// a secret of the client, and must not be that of a session that there is. After an error the client
	// gets 400. Default: 15 random bytes in base64.
	GenerateID func(*http.Request) (string, error)

	// Relay passes requests of polling clients on to the nodes that have their sessions, so that no proxy has to
	// send all requests of a client to one node: relay.New makes one. The tag of the node is part of the IDs
	// of sessions then. Default: a request with the ID of a session on another node gets 400.
	Relay Relay

	// UpgradeWait is how long a session with a Relay is ready to go to another node, if that is where the WebSocket
	// comes to which its client upgrades: from the client's first message on, which is kept so long. A client that is
	// far away is given four times as long as that message took, up to 2 s. Later the upgrade is refused, and the
	// client stays on polling. Default 300 ms.
	UpgradeWait time.Duration

	// OnHeaders may add headers to every answer, and OnHandshake to those that open a session, on both
	// transports. Default: nil.
	OnHeaders, OnHandshake func(http.Header, *http.Request)

	// OnConnectionError is told of each request that is refused: see [ConnectionError]. It must not wait.
	// Default: nil.
	OnConnectionError func(ConnectionError)

	// QueueBytes limits what waits for one client, in bytes of WebSocket frames. What is being written,
	// 64 KiB or one packet at most, comes on top. A packet that is larger is taken when nothing else
	// waits, and comes on top too. Default 1 MiB.
	QueueBytes int

	// TotalQueueBytes limits what waits for all clients together, in bytes of memory. What several clients
	// wait for counts once; the first 4 KiB that wait for a client do not count. Past the limit the sessions
	// with the longest queues end, whatever Overflow is. Queues count as equally long within a factor of two;
	// then the session ends whose queue has been that long for longer. Default 256 MiB; negative: no limit.
	TotalQueueBytes int

	// Overflow is the policy for a full queue, unless a packet says so itself. Answers, and packets of the
	// protocol itself, are never dropped: they may take a quarter of QueueBytes more, and then the
	// connection ends. Default [engine.CloseSlow].
	Overflow engine.Overflow

	// UnfinishedBytes limits the unfinished messages, and bodies of polling requests, of all clients together,
	// in bytes of buffers. Past it, the connections whose messages began first are closed. A message of which
	// less than 4 KiB have come does not count. Default 256 MiB; negative: no limit.
	UnfinishedBytes int

	// KernelBuffer is the size in bytes of the kernel's two buffers of a WebSocket connection, for sending
	// and for receiving. Linux uses up to twice as much memory. Without a limit, a client that does not read
	// can fill 4 MB of the kernel's memory. Default 64 KiB. Negative: the buffers stay as they are; behind
	// a [Listener] the one for sending has 64 KiB already.
	KernelBuffer int

	// WriteTimeout is how long the connection of a client may stand still while something is being
	// written to it. It ends then, whatever Overflow is. Default 5 s.
	WriteTimeout time.Duration

	// MessageTimeout is how long a message may take from its first byte to its last. Default 10 s.
	MessageTimeout time.Duration

	// ControlRate is how many frames without content a client may send in a second, on the average of a
	// minute: WebSocket pings and pongs, fragments of less than 128 bytes, and Engine.IO packets that are no
	// message. The pong that answers a heartbeat does not count. Past it the connection ends, with close
	// code 1008. Default 100; negative: no limit.
	ControlRate int

	// MessageRate is how many messages are read from one client in a second. Each attachment counts as one.
	// The messages of one second may come at once. A client that sends more is not closed; it is read from
	// more slowly. Default 0: as many as the receiver takes.
	MessageRate int

	// MaxConns limits the sessions; a handshake past it is answered with 503. Default 0: no limit.
	MaxConns int

	// Compress offers permessage-deflate to WebSocket clients, without context takeover. Packets of
	// 1 KiB and more are compressed, once for all their receivers. Default false.
	Compress bool

	// Epoll makes one epoll loop read all WebSocket connections over plain TCP, instead of a goroutine each.
	// An idle connection costs about a fifth of the memory then. It changes nothing on other systems than
	// Linux, over TLS, and where descriptors run out. Default false.
	Epoll bool

	// OnWritten is told how long an event was on its way from its emit, on whatever node, until the connection
	// took it: of the events that carry the time of their emit, which of those that package hub emits is one in
	// 64, and of several in one write the oldest. It is negative if the clock of the emitting node is ahead.
	// It must return quickly. Nil: not called.
	OnWritten func(c engine.Conn, took time.Duration)

	// Logger receives what an operator must see: panics of the receiver, and now and then how many clients
	// have read too slowly. Default: slog.Default().
	Logger *slog.Logger
}

// withDefaults fills in what is not set. The options have been checked.
func (o Options) withDefaults() Options {
	if o.Path == "" {
		o.Path = "/socket.io/"
	}
	orDuration(&o.PingInterval, 25*time.Second)
	orDuration(&o.PingTimeout, 20*time.Second)
	orDuration(&o.UpgradeTimeout, 10*time.Second)
	orDuration(&o.UpgradeWait, 300*time.Millisecond)
	orDuration(&o.WriteTimeout, 5*time.Second)
	orDuration(&o.MessageTimeout, 10*time.Second)
	if o.ControlRate == 0 {
		o.ControlRate = 100
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = 1_000_000
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = 1 << 20
	}
	if o.UnfinishedBytes == 0 {
		o.UnfinishedBytes = 256 << 20
	}
	if o.KernelBuffer == 0 {
		o.KernelBuffer = kernelSize
	}
	if o.TotalQueueBytes == 0 {
		o.TotalQueueBytes = 256 << 20
	}
	if o.Overflow == engine.AsConfigured {
		o.Overflow = engine.CloseSlow
	}
	if len(o.Transports) == 0 {
		o.Transports = []string{Polling, WebSocket}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func orDuration(d *time.Duration, or time.Duration) {
	if *d <= 0 {
		*d = or
	}
}
