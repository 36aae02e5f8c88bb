// Package nats is the driver for NATS core: one ordered connection carries everything of a node.
//
// A subject becomes prefix.s.SUBJECT with whatever NATS cannot carry escaped, or prefix.h.HASH if that
// would be long.
//
// # Receipts
//
// A node acknowledges what it takes, many messages at a time, and delivers at once. A receipt is
//
//   - at least one, as soon as one node has acknowledged;
//   - exactly zero, at once, where the server says that nobody is subscribed;
//   - unknown, after a second, where neither comes: a node that had the message is dying, frozen or cut off,
//     or ended its subscription in that instant. It may have delivered the message.
//
// If the server is silent, or the connection is replaced before it is known that the server has the message,
// Publish fails with [broker.ErrUnavailable].
//
// # Subscriptions
//
// The server confirms every subscription. What it refuses, because of a permission or a limit, fails with
// [broker.ErrRefused], and nothing else does. What it ends later (it says so when permissions have changed), or
// does not restore after a reconnect, is told to Handler.Lost. A node also asks every second for some of its
// rooms, for each about once in five minutes, by a message to itself: a subscription that has ended without a word
// is found by that.
//
// A user with restricted permissions needs to publish and to subscribe to prefix.> and to the inboxes,
// _INBOX.> unless the connection has an inbox prefix of its own. While some of that is refused a node is not
// up, and tries again every second.
//
// # Headers
//
// Messages have none, but for those with a [broker.Trace]: traceparent and tracestate, for other programs. They are left
// out where a message would be too large with them. The driver reads none of them.
//
// # Several servers
//
// A node knows all servers of a cluster from the one that it has reached, and goes to another when its
// own dies or sends it away. Interest travels from server to server a little behind the answer of one's
// own, so Subscribe and Unsubscribe also wait for every other server where a broker of this prefix is, one
// that only publishes included: brokers answer for their servers. That is one message there and back for each
// such server, and nodes look for each other twice a second. A broker that comes to a server listens for others
// for 0.1 seconds, 0.04 on a server without a cluster; until then a receipt of zero waits. This holds for
// clusters and for leaf nodes alike. What holds, and what does not:
//
//   - When Subscribe returns, what is published at any server by a broker of this prefix arrives, or lies
//     in a gap. A server where somebody was and that has not answered for a second is not waited for; if
//     it comes back, that is a gap.
//   - A route between servers that breaks for half a second or longer is a gap for the nodes on either
//     side once it is whole again, but while it is broken a receipt counts only nodes that can be reached.
//   - A publisher that moves because its server has died may have published what that server never
//     passed on. It tells the nodes, and they report a gap, if it had published in the last two seconds.
//     If the publisher dies with its server nobody can tell.
//   - Two brokers that come to servers at the same time, each as the first there, over a route that takes
//     longer there and back than they listen, may hear of each other only half a second later: a gap.
//   - Between clusters with names of their own (gateways) nothing can be confirmed: interest arrives there when it
//     does. As soon as a broker is heard of in another cluster the log says so, and receipts say unknown in
//     the place of zero.
//   - Each publisher's order holds at every server, and no message is delivered twice. When a publisher or a node
//     moves, messages may still be on their way from the old server. Those that come behind newer messages of
//     their publisher are dropped: they lie in the gap. Between clusters they are delivered.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/credential"
	"tether/broker/internal/lane"
	"tether/internal/group"
)

// Options of [New]. The zero value is the default.
type Options struct {
	// Prefix is what every subject on the wire begins with: 1 to 64 letters, digits, "-", "_" and
	// inner dots. Nodes that are to hear each other have the same. Default "tether".
	Prefix string

	// MaxPending bounds the bytes of messages that have been read and wait for Deliver. When it is
	// reached messages are dropped, into a gap that names their subjects. Default 64 MiB.
	MaxPending int

	// Logger is told what no return value can tell: that the server refuses something. Default
	// slog.Default().
	Logger *slog.Logger

	// Log has JetStream keep what is published, see [broker.Logger]. Bytes are those of everything that is kept; default
	// 1 GiB. All that share a prefix need the same. If the server cannot keep it New fails, or, on a connection that is
	// not connected yet, Handler.State and Publish do. Zero: there is no log.
	Log broker.LogOptions

	// LogRecords bounds the bytes of the records that are saved in the log. When it is reached [broker.Log] saves none that is
	// new, or longer than it was. Default 256 MiB.
	LogRecords int
}

// timeout is how long the server may take to answer: Publish fails after 1.5 seconds, by the lanes.
const timeout = 1400 * time.Millisecond

// Broker is one node.
type Broker struct {
	conn       *natsio.Conn      // owned by the driver if owned is set
	owned      bool              // immutable
	link       *link             // immutable; what conn runs on
	names      names             // immutable
	inbox      string            // immutable; what comes to us alone begins with it; with a dot at its end
	question   string            // immutable; the reply subject of questions to ourselves
	maxPending int               // immutable
	kept       *keeping          // immutable; nil: there is no log
	log        *slog.Logger      // immutable
	files      *credential.Files // immutable; of TLS; nil if there are none

	lanes    *lane.Lanes
	receipts *receipts
	rooms    rooms
	cluster  *cluster
	refusals refusals
	listener listener
	run      atomic.Pointer[run] // nil while there is no Run

	in      chan *natsio.Msg // from nats.go to read
	fence   *natsio.Msg      // put into in by flush
	fenced  chan struct{}    // read has come to the fence
	dropped atomic.Uint64    // times at which nats.go may have dropped something

	own        *natsio.Subscription // owned by keep; of the inbox; nil while there is none
	incomplete error                // owned by keep; why rooms may not be subscribed; nil: they are
	listening  chan struct{}        // closed by keep when the inbox is subscribed

	changing chan struct{} // capacity 1; full while the rooms are changed

	up      atomic.Bool   // messages make the round trip, as State was told
	hasRun  atomic.Bool   // Run was called
	started chan struct{} // closed when Run begins
	stopped chan struct{} // closed when Run begins to end

	work    group.Group     // Run and keep
	closed  <-chan struct{} // closed by Close
	reading group.Group     // read
	gone    <-chan struct{} // closed when Close has waited for Run, the lanes and keep
}

var _ broker.Broker = (*Broker)(nil)

// New returns a broker on the application's connection, which it does not close. The connection must
// have been made with [ConnectOptions], and no option given after them may undo them; what can be
// checked is. While the server is silent for two seconds the driver makes it reconnect.
func New(conn *natsio.Conn, o Options) (broker.Broker, error) {
	if conn == nil {
		return nil, errors.New("nats: no connection")
	}
	l, err := linkOf(conn)
	if err != nil {
		return nil, err
	}
	return newBroker(context.Background(), conn, l, o, false, nil)
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = "tether"
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func newBroker(ctx context.Context, conn *natsio.Conn, l *link, o Options, owned bool, files *credential.Files) (*Broker, error) {
	o = o.withDefaults()
	if !validPrefix(o.Prefix) {
		return nil, fmt.Errorf("nats: prefix %q is not 1 to 64 letters, digits, \"-\", \"_\" and inner dots", o.Prefix)
	}
	var kept *keeping
	if o.Log.Age > 0 {
		kept = newKeeping(conn, l, o)
	}
	inbox := conn.NewInbox() + "."
	b := &Broker{
		kept:       kept,
		conn:       conn,
		link:       l,
		names:      newNames(o.Prefix, kept),
		inbox:      inbox,
		question:   inbox + questionTail,
		maxPending: o.MaxPending,
		log:        o.Logger,
		owned:      owned,
		files:      files,
		rooms:      rooms{byWire: make(map[string]*room)},
		changing:   make(chan struct{}, 1),
		in:         make(chan *natsio.Msg, readQueue),
		fence:      new(natsio.Msg),
		fenced:     make(chan struct{}, 1),
		listening:  make(chan struct{}),
		started:    make(chan struct{}),
		stopped:    make(chan struct{}),
		refusals: refusals{
			wake:   make(chan struct{}, 1),
			rooms:  make(map[string]error),
			silent: make(map[string]struct{}),
		},
	}
	b.closed, b.gone = b.work.Closing(), b.reading.Closing()
	b.lanes = lane.New(lane.Options{Lanes: 1, Check: checkMessage, Send: b.send})
	b.cluster = newCluster(b)
	tick := lookTick
	if kept != nil {
		tick = logTick
	}
	b.receipts = newReceipts(b.cluster.isCertain, tick)
	b.listener = listener{b.onError}
	l.listen(&b.listener)
	if e := l.current(); kept != nil && !e.ended() {
		if err := kept.prepare(ctx, e); err != nil {
			l.unlisten(&b.listener)
			return nil, err
		}
	}
	b.reading.Go(b.read) // Close waits for both
	b.work.Go(b.keep)
	return b, nil
}

func checkMessage(m broker.Message) error {
	if m.Subject == "" {
		return errEmptySubject
	}
	return nil
}

var errEmptySubject = errors.New("nats: empty subject")

// Publish implements [broker.Broker]. A message that nobody acknowledges takes a second, unless the server
// says that nobody is subscribed; other calls do not wait for it.
func (b *Broker) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	return b.lanes.Publish(ctx, msgs...)
}

// Close implements [broker.Broker]. It waits for Run, and so must not be called from a Handler.
func (b *Broker) Close() error {
	if !b.work.Close() {
		b.reading.Wait()
		return nil
	}
	b.lanes.Close()
	if b.owned && !b.up.Load() {
		b.link.cut(b.link.current().n, net.ErrClosed) // somebody may be writing to a server that does not read
	}
	b.lanes.Wait()
	b.work.Wait()
	b.link.unlisten(&b.listener)
	if b.owned {
		b.conn.Close()
	} else {
		b.leave()
	}
	b.reading.Close()
	b.reading.Wait()
	return nil
}

func (b *Broker) isDone() bool {
	select {
	case <-b.closed:
		return true
	default:
		return false
	}
}

// unavailable wraps what happened on the connection.
func unavailable(doing string, err error) error {
	return fmt.Errorf("nats: %s: %w: %w", doing, broker.ErrUnavailable, err)
}
