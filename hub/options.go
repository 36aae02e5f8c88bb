package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"tether/broker"
	"tether/broker/seal"
	"tether/cluster"
	"tether/internal/socketio"
)

// Options of a Hub. The zero value is ready to use. New returns an error for a field that is out of range.
type Options struct {
	// Node is this node's name for people. Default: the random tag that is in its socket IDs.
	Node string

	// Version is that of the program, for [Hub.Members]. Default: what its build says.
	Version string

	// Address is where other nodes reach this one, for [Hub.Members]: the URL of its server, say. Default
	// none.
	Address string

	// Prefix begins all broker subjects. Hubs and emitters that share a broker and a prefix are one
	// cluster. Default "tether".
	Prefix string

	// Key keeps strangers who can use the same broker out of the cluster, which all hubs and emitters then need
	// it for. The zero value is none: everybody who can publish at the broker is trusted, and can emit to any
	// user.
	Key seal.Keys

	// Events is the list of events that emitters and sockets of this hub may emit; the greeting and ExpiryEvent
	// need not be in it. Empty: any.
	Events []string

	// Logger gets what an operator should know. Client mistakes are logged at debug level only, and
	// payloads never, but for what an error of a handler quotes. Default: slog.Default().
	Logger *slog.Logger

	// ConnectTimeout is how long a connection may be without a namespace before it is closed.
	// Default 45 s.
	ConnectTimeout time.Duration

	// HookTimeout is how long the middleware and connect hooks of one CONNECT may take together, and
	// how long Run waits for handlers after the last connection is gone. Default 10 s.
	HookTimeout time.Duration

	// AttachmentTimeout is how long the attachments of a packet may take. Default 10 s.
	AttachmentTimeout time.Duration

	// DrainWindow is the time over which Run closes connections once its context is done. Default: 10 ms for
	// each connection, and at most 10 s. Negative: all at once.
	DrainWindow time.Duration

	// ExpiryNotice is how long before the time of [Socket.ExpireAt] the client is told: with ExpiryEvent and
	// {"expiresIn": 60}, the seconds that are left. Zero: it is not told.
	ExpiryNotice time.Duration

	// ExpiryEvent is that event. Default "/ops/token-expires".
	ExpiryEvent string

	// Greeting is what a socket gets when it is registered.
	Greeting Greeting

	// Devices bounds how many sockets a user may have.
	Devices Devices

	// Recovery lets clients come back that have lost their connection.
	Recovery Recovery

	// ForgetHandshake drops URL, query, headers and auth of a handshake once the connect hooks of a
	// namespace have let the socket in: to save memory, and so that tokens are not kept. Afterwards
	// [Socket.Handshake] has address and time only, also for further namespaces of the connection,
	// which still have their own auth.
	ForgetHandshake bool

	// Limits of what a client may use.
	Limits Limits

	// Tracers are told of some of the events on their way. At most four; default none.
	Tracers []Tracer

	// Time is the wall clock, which may be set forwards and backwards at any moment: it decides when
	// ExpireAt has come, orders the devices of a user, dates handshakes, and with Key tells how old a message
	// is. Durations are not measured by it. Nil: time.Now.
	Time func() time.Time

	// OnStart is called by Run once the broker is up. Its error ends Run. Nil: not called.
	OnStart func(ctx context.Context, h *Hub) error

	// OnGap is told of a time in which messages of the broker may have been missed. It must return
	// quickly and must not call the broker. Nil: not called.
	OnGap func(broker.Gap)

	// OnMembers is told the list of [Hub.Members] when a node has come or gone, or begun to drain: one call
	// at a time, and perhaps one for several changes. It must return quickly. Nil: not called.
	OnMembers func([]cluster.Member)
}

// Greeting is the event that a socket, and only it, gets when [Socket.Register] makes it one of a
// user's: once per socket and user.
type Greeting struct {
	Off     bool   // no greeting
	Event   string // default "/ops/connection-success"
	Message string // of the one argument, {"message": Message}. Default "Successfully connected"
}

// Devices is a limit on the sockets of one user in the whole cluster. The nodes that hold sockets of
// the user are asked at each registration, so a limit costs a round trip through the broker (two where it
// cannot count, and a word of every node), and two seconds when a node does not answer. When that happens,
// more sockets than Max may stay; otherwise they may not, however registrations race.
type Devices struct {
	Max int // sockets of a user; 0: no limit

	// RefuseNew has Register return ErrTooManyDevices for the one that is too many. Otherwise the sockets that
	// were registered first are disconnected: a phone that has changed its network comes back as a new socket,
	// and the old one is the one that goes. A socket counts until the end of its connection has been noticed,
	// which is after transport.Options.PingInterval and PingTimeout if the network failed: until then RefuseNew
	// can refuse a phone for its own old socket, and the stock client does not try again.
	RefuseNew bool
}

// Limits bounds what clients may use. A field that is zero has its default; a negative one is an error.
type Limits struct {
	// Namespaces of one connection, joined or joining; past it CONNECT is refused. Default 16.
	Namespaces int

	// Rooms of one socket beside its own; past it Join returns ErrTooMany. Default 1024.
	Rooms int

	// TotalHandshakeBytes is the memory of the handshakes of connections that are in no namespace, together,
	// in bytes: URLs and headers, which may lead to nothing. Past it, the connections that began first end.
	// What is less than 4 KiB does not count. Default 64 MiB.
	TotalHandshakeBytes int

	// Auth is the size of a CONNECT payload in bytes; past it CONNECT is refused. Default 16 KiB.
	Auth int

	// Depth of the JSON in a packet, its argument array included. Default and maximum 512. A packet past
	// this limit, or past Args, EventName, Namespace, Attachments or PacketBytes, closes the connection.
	Depth int

	// Args of an event, its name included. Default 1024.
	Args int

	// EventName is the length of an event's name in bytes, as it stands in the packet, with quotes.
	// Default 256.
	EventName int

	// Namespace is the length of a namespace in bytes. Default 256.
	Namespace int

	// Attachments of one packet from a client. Default 10.
	Attachments int

	// PacketBytes is the size of a packet with attachments, all together. Default 8 MiB. Without
	// attachments the transport's limit on a message is the limit.
	PacketBytes int

	// TotalAttachmentBytes is the memory of packets whose attachments are still missing, of all clients
	// together, in bytes. Past it, those that began first end with their connections. What is less than
	// 4 KiB does not count. Default 256 MiB.
	TotalAttachmentBytes int

	// Acks that are awaited from one socket; past it EmitAck returns ErrTooMany. Default 1024.
	Acks int

	// Events of one connection that have come and are not handled yet. At the limit nothing is read from
	// it; at twice the limit it is closed. Default 64.
	Events int

	// EventBytes is the size of such events together, in bytes, with the same effects. Default 1 MiB.
	EventBytes int

	// Held packets for one socket whose connect hooks are running. Past it the connection is closed.
	// Default 1024.
	Held int

	// HeldBytes is the size of such packets together, in bytes. Default 1 MiB.
	HeldBytes int
}

const (
	defaultPrefix   = "tether"
	defaultGreeting = "/ops/connection-success"
	defaultWelcome  = "Successfully connected"
	defaultExpiry   = "/ops/token-expires"
)

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if o.Version == "" {
		o.Version = buildVersion()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Time == nil {
		o.Time = time.Now
	}
	orDuration(&o.ConnectTimeout, 45*time.Second)
	orDuration(&o.HookTimeout, 10*time.Second)
	orDuration(&o.AttachmentTimeout, 10*time.Second)
	if o.ExpiryEvent == "" {
		o.ExpiryEvent = defaultExpiry
	}
	if o.Greeting.Event == "" {
		o.Greeting.Event = defaultGreeting
	}
	if o.Greeting.Message == "" {
		o.Greeting.Message = defaultWelcome
	}
	l := &o.Limits
	orInt(&l.Namespaces, 16)
	orInt(&l.Rooms, 1024)
	orInt(&l.Auth, 16<<10)
	orInt(&l.Depth, socketio.MaxDepth)
	orInt(&l.Args, 1024)
	orInt(&l.EventName, 256)
	orInt(&l.Namespace, 256)
	orInt(&l.Attachments, 10)
	orInt(&l.PacketBytes, 8<<20)
	orInt(&l.TotalAttachmentBytes, 256<<20)
	orInt(&l.TotalHandshakeBytes, 64<<20)
	orInt(&l.Acks, 1024)
	orInt(&l.Events, 64)
	orInt(&l.EventBytes, 1<<20)
	orInt(&l.Held, 1024)
	orInt(&l.HeldBytes, 1<<20)
	r := &o.Recovery
	orDuration(&r.Window, 2*time.Minute)
	orInt(&r.SessionBytes, 1<<20)
	orInt(&r.UserBytes, 4<<20)
	orInt(&r.TotalBytes, 256<<20)
	return o
}

func orInt(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

func orDuration(v *time.Duration, def time.Duration) {
	if *v == 0 {
		*v = def
	}
}

// check says what is out of range.
func (o *Options) check() error {
	var wrong []error
	for name, d := range map[string]time.Duration{
		"ConnectTimeout": o.ConnectTimeout, "HookTimeout": o.HookTimeout, "AttachmentTimeout": o.AttachmentTimeout,
		"ExpiryNotice": o.ExpiryNotice, "Recovery.Window": o.Recovery.Window,
	} {
		if d < 0 {
			wrong = append(wrong, fmt.Errorf("%s is %v: a time cannot be negative, 0 is the default", name, d))
		}
	}
	limits := reflect.ValueOf(o.Limits)
	for i := range limits.NumField() {
		if n := limits.Field(i).Int(); n < 0 {
			wrong = append(wrong, fmt.Errorf("%s is %d: a limit cannot be negative, 0 is the default", "Limits."+limits.Type().Field(i).Name, n))
		}
	}
	if o.Limits.Depth > socketio.MaxDepth {
		wrong = append(wrong, fmt.Errorf("Limits.Depth is %d, at most %d is possible", o.Limits.Depth, socketio.MaxDepth))
	}
	if o.Devices.Max < 0 {
		wrong = append(wrong, fmt.Errorf("Devices.Max is %d: a limit cannot be negative, 0 is none", o.Devices.Max))
	}
	wrong = append(wrong, o.Recovery.check()...)
	if err := checkTracers(o.Tracers); err != nil {
		wrong = append(wrong, err)
	}
	if err := o.Key.Check(); err != nil {
		wrong = append(wrong, fmt.Errorf("option Key: %w", err))
	}
	for _, event := range append(slices.Clone(o.Events), o.Greeting.Event, o.ExpiryEvent) {
		if socketio.Reserved(event) {
			wrong = append(wrong, fmt.Errorf("%w: its name is reserved: %q", ErrEvent, event))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("hub: options: %w", errors.Join(wrong...))
	}
	return nil
}

// check says what is out of range, but for Window.
func (r *Recovery) check() (wrong []error) {
	for name, n := range map[string]int{"Recovery.SessionBytes": r.SessionBytes, "Recovery.UserBytes": r.UserBytes, "Recovery.TotalBytes": r.TotalBytes} {
		if n < 0 {
			wrong = append(wrong, fmt.Errorf("%s is %d: a limit cannot be negative, 0 is the default", name, n))
		}
	}
	for name, set := range map[string]bool{"Recovery.All": r.All, "Recovery.Log": r.Log} {
		if set && !r.On {
			wrong = append(wrong, fmt.Errorf("%s is set and Recovery.On is not", name))
		}
	}
	return wrong
}
