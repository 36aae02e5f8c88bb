// Package nats is the driver for NATS core: one ordered connection carries everything of a node.
//
// A subject becomes prefix.s.SUBJECT with whatever NATS cannot carry escaped, or prefix.h.HASH if that
// would be long. Receivers acknowledge on the reply subject of a message, so a [broker.Reach] is
// exactly zero or at least one: those nodes that have acknowledged it within one more round trip to the
// server are counted, which with two or three nodes that are up is nearly always all of them.
//
// Zero is certain, and takes as long as it takes to be so. Where nobody is subscribed the server says so at
// once ("no responders"); where somebody has just left, or leaves and comes back, it takes 0.1 to 0.3
// seconds; and otherwise whoever has not acknowledged within 3.5 seconds is told that it is too late, and
// drops the message into a gap if it wakes up. A node delivers a message when the server has its
// acknowledgement, one round trip after it has read it. If a publisher's connection is replaced while it
// waits, the reach is unknown.
//
// A user with restricted permissions needs to publish and to subscribe to prefix.> and to the inboxes,
// _INBOX.> unless the connection has an inbox prefix of its own.
//
// # Clusters
//
// A node knows all servers of a cluster from the one that it has reached, and goes to another when its
// own dies or sends it away. Interest travels from server to server a little behind the answer of one's
// own, so in a cluster Subscribe and Unsubscribe also wait for every other server where a broker of this
// prefix is, one that only publishes included: brokers answer for their servers. That is one message
// there and back for each such server, and brokers look for each other twice a second; a broker that
// comes to a server first listens for 0.1 seconds, so its first Publish or Subscribe there takes that
// long. On a single server nothing of this happens. What holds, and what does not:
//
//   - When Subscribe returns, what is published at any server by a broker of this prefix arrives, or lies
//     in a gap. A server where somebody was and that has not answered for a second is not waited for; if
//     it comes back, that is a gap.
//   - A route between servers that breaks for half a second or longer is a gap for the nodes on either
//     side once it is whole again, but while it is broken a receipt counts only who can be reached.
//   - Zero is certain at once where no server passes the message on. Where one did, and nobody
//     acknowledges it, the reach is unknown if any server where somebody was has been out of reach since;
//     what is not seen is a route that breaks and is whole again within a tenth of a second, or that
//     holds acknowledgements up for longer than half a second while all on the far side are frozen.
//   - A publisher that moves because its server has died may have published what that server never
//     passed on. It tells the nodes, and they report a gap, if it had published in the last two seconds.
//     If the publisher dies with its server nobody can tell.
//   - Two brokers that come to servers at the same time, each as the first there, over a route that takes
//     longer than 0.1 seconds there and back, may hear of each other only half a second later: a gap.
//   - Between clusters (gateways, leaf nodes) and from publishers that are not of this package nothing is
//     confirmed: interest arrives there when it does.
//   - Each publisher's order holds at every server. When a publisher moves, what it had published before
//     is ahead of what it publishes then unless it was held up for longer than the move took, a tenth of a
//     second at least.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/lane"
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
}

// timeout is how long the server may take to answer: Publish fails after 1.5 seconds, by the lanes.
const timeout = 1400 * time.Millisecond

// Broker is one node.
type Broker struct {
	conn       *natsio.Conn // owned by the driver if owned is set
	owned      bool         // immutable
	link       *link        // immutable; what conn runs on
	names      names        // immutable
	maxPending int          // immutable
	log        *slog.Logger // immutable

	lanes    *lane.Lanes
	receipts *receipts
	interest *interest
	cluster  *cluster

	closed  chan struct{} // closed by Close
	started chan struct{} // closed when Run begins
	stopped chan struct{} // closed when Run begins to end
	gone    chan struct{} // closed when Close has waited for Run and the lanes

	up      atomic.Bool    // messages make the round trip, as State was told
	running sync.WaitGroup // Run; Add under mu
	reading sync.WaitGroup // what spawn has started; Add under mu

	mu       sync.Mutex
	isClosed bool // guarded by mu
	hasRun   bool // guarded by mu
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
	return newBroker(conn, l, o)
}

func newBroker(conn *natsio.Conn, l *link, o Options) (*Broker, error) {
	if o.Prefix == "" {
		o.Prefix = "tether"
	}
	if !validPrefix(o.Prefix) {
		return nil, fmt.Errorf("nats: prefix %q is not 1 to 64 letters, digits, \"-\", \"_\" and inner dots", o.Prefix)
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	b := &Broker{
		conn:       conn,
		link:       l,
		names:      newNames(o.Prefix),
		maxPending: o.MaxPending,
		log:        o.Logger,
		closed:     make(chan struct{}),
		started:    make(chan struct{}),
		stopped:    make(chan struct{}),
		gone:       make(chan struct{}),
	}
	b.lanes = lane.New(lane.Options{Lanes: 1, Check: checkMessage, Send: b.send})
	b.interest = newInterest()
	b.cluster = newCluster(b)
	b.receipts = newReceipts(b)
	return b, nil
}

func checkMessage(m broker.Message) error {
	if m.Subject == "" {
		return errEmptySubject
	}
	return nil
}

var errEmptySubject = errors.New("nats: empty subject")

// Publish implements [broker.Broker]. A message on which nobody acknowledges takes 3.5 seconds, unless
// the server says that nobody is subscribed; other calls do not wait for it.
func (b *Broker) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Reach, error) {
	return b.lanes.Publish(ctx, msgs...)
}

// listen starts to read what comes back, once. It may block as long as the connection does.
func (b *Broker) listen() error {
	return b.receipts.start(func() bool {
		return b.spawn(func() { b.receipts.loop(b.gone) })
	})
}

// spawn runs a goroutine that Close waits for, unless the broker is closed.
func (b *Broker) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isClosed {
		return false
	}
	b.reading.Go(f)
	return true
}

// Close implements [broker.Broker]. It waits for Run, and so must not be called from a Handler.
func (b *Broker) Close() error {
	b.mu.Lock()
	first := !b.isClosed
	b.isClosed = true
	b.mu.Unlock()
	if !first {
		<-b.gone
		b.reading.Wait()
		return nil
	}
	close(b.closed)
	b.lanes.Close()
	if b.owned && !b.up.Load() {
		b.link.cut(b.link.current().n, net.ErrClosed) // somebody may be writing to a server that does not read
	}
	b.lanes.Wait()
	b.running.Wait()
	if b.owned {
		b.conn.Close()
	} else {
		b.receipts.end()
		b.cluster.end()
	}
	close(b.gone)
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
