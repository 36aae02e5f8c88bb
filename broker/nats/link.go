package nats

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	natsio "github.com/nats-io/nats.go"
)

// What a connection must be like; ConnectOptions says why.
const (
	reconnectWait   = 200 * time.Millisecond
	reconnectJitter = 50 * time.Millisecond
	maxWait         = 250 * time.Millisecond
	writeTimeout    = time.Second
	dialTimeout     = 2 * time.Second
	pingInterval    = time.Second
	maxPings        = 2
)

// ConnectOptions returns the options that a connection for [New] needs: reconnect for ever and soon
// (every 200 to 250 ms); refuse what is published meanwhile instead of keeping it for later, so that
// Publish can tell; give up a write after a second and the connection with it, so that no
// subscription is lost on the way; notice a dead server within three seconds; and let the driver see
// when the connection is replaced. They go before the application's own:
//
//	conn, err := natsio.Connect(url, append(nats.ConnectOptions(nil), natsio.Name("shop"))...)
//
// dial opens the connections; nil is a [net.Dialer] with a timeout of two seconds. The options are for
// one connection: call ConnectOptions again for the next.
func ConnectOptions(dial func(network, address string) (net.Conn, error)) []natsio.Option {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).Dial
	}
	return []natsio.Option{
		natsio.SetCustomDialer(newLink(dial)),
		natsio.MaxReconnects(-1),
		natsio.IgnoreAuthErrorAbort(),
		natsio.ReconnectWait(reconnectWait),
		natsio.ReconnectJitter(reconnectJitter, reconnectJitter),
		natsio.ReconnectBufSize(-1),
		natsio.FlusherTimeout(writeTimeout),
		natsio.ReconnectOnFlusherError(),
		natsio.Timeout(dialTimeout),
		natsio.PingInterval(pingInterval),
		natsio.MaxPingsOutstanding(maxPings),
	}
}

// linkOf returns what a connection runs on, and what is wrong with the connection.
func linkOf(conn *natsio.Conn) (*link, error) {
	o := &conn.Opts
	l, ok := o.CustomDialer.(*link)
	var wrong string
	switch {
	case !ok || o.InProcessServer != nil:
		wrong = "its dialer is another"
	case !o.AllowReconnect || o.MaxReconnect >= 0:
		wrong = "it does not reconnect for ever"
	case !o.IgnoreAuthErrorAbort:
		wrong = "it gives up after an authorization error"
	case o.CustomReconnectDelayCB == nil && o.ReconnectWait > maxWait:
		wrong = fmt.Sprintf("it waits %v between attempts to reconnect", o.ReconnectWait)
	case o.ReconnectBufSize >= 0:
		wrong = "it buffers while it reconnects"
	case o.FlusherTimeout <= 0 || o.FlusherTimeout > writeTimeout || !o.ReconnectOnFlusherError:
		wrong = "its writes may block"
	case o.NoEcho:
		wrong = "it does not hear its own messages"
	case conn.IsClosed():
		wrong = "it is closed"
	case conn.IsConnected() && !conn.HeadersSupported():
		return nil, errors.New("nats: the server is older than 2.2, and cannot tell that nobody is subscribed")
	default:
		return l, nil
	}
	return nil, errors.New("nats: the connection was not made with ConnectOptions: " + wrong)
}

// link dials for one nats.go connection and knows which of its network connections is the current
// one. It is asked instead of nats.go because nats.go answers under a lock that it holds while it
// dials, or writes to a server that does not read.
type link struct {
	dial func(network, address string) (net.Conn, error) // immutable

	mu        sync.Mutex
	now       epoch                  // guarded by mu
	wire      *wire                  // guarded by mu; nil before the first
	cause     error                  // guarded by mu; why the current one has ended
	followers map[*follower]struct{} // guarded by mu
}

// epoch is the time of one network connection.
type epoch struct {
	n     uint64        // 1 is the first
	since time.Time     // when it was opened
	down  chan struct{} // closed at its end
	end   *time.Time    // valid when down is closed
}

// close ends the epoch.
func (e epoch) close() {
	*e.end = time.Now()
	close(e.down)
}

// ending returns when the epoch ended; now if it has not.
func (e epoch) ending() time.Time {
	if !e.ended() {
		return time.Now()
	}
	return *e.end
}

func (e epoch) ended() bool {
	select {
	case <-e.down:
		return true
	default:
		return false
	}
}

func newLink(dial func(network, address string) (net.Conn, error)) *link {
	down := make(chan struct{})
	close(down)
	return &link{dial: dial, now: epoch{down: down, end: new(time.Time)}, cause: errors.New("not connected")}
}

// Dial implements nats.CustomDialer.
func (l *link) Dial(network, address string) (net.Conn, error) {
	c, err := l.dial(network, address)
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.now.ended() {
			l.cause = err
		}
		return nil, err
	}
	w := &wire{Conn: c, link: l}
	l.mu.Lock()
	if !l.now.ended() {
		l.now.close()
	}
	n := l.now.n + 1
	l.now = epoch{n: n, since: time.Now(), down: make(chan struct{}), end: new(time.Time)}
	l.wire, l.cause = w, nil
	followers := slices.Collect(maps.Keys(l.followers))
	l.mu.Unlock()
	for _, f := range followers {
		f.replaced(n)
	}
	return w, nil
}

// follower is told of each new network connection. That is between what nats.go has read from the one
// before, all of which is in the channels of its subscriptions by then, and what it reads from the new
// one: nats.go waits for its reading goroutine to end before it dials.
type follower struct {
	replaced func(n uint64) // may block for a moment
}

// follow tells f of each network connection from now on, and returns the number of the current one.
func (l *link) follow(f *follower) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.followers == nil {
		l.followers = make(map[*follower]struct{})
	}
	l.followers[f] = struct{}{}
	return l.now.n
}

func (l *link) unfollow(f *follower) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.followers, f)
}

func (l *link) current() epoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// why returns why there is no connection; nil if there is one.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// cut ends the network connection of epoch n, if it is still the current one; nats.go dials the next.
func (l *link) cut(n uint64, cause error) {
	l.mu.Lock()
	if l.now.n != n || l.wire == nil {
		l.mu.Unlock()
		return
	}
	w := l.wire
	l.mu.Unlock()
	w.fail(cause)
}

// wire is one network connection. It is closed by the first thing that goes wrong with it: nats.go
// would otherwise go on after a write that took too long, without what it wanted to write.
type wire struct {
	net.Conn
	link *link
	once sync.Once
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.fail(err)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.fail(err)
	}
	return n, err
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.fail(net.ErrClosed)
	return nil
}

func (w *wire) fail(cause error) {
	w.once.Do(func() {
		w.link.mu.Lock()
		if w.link.wire == w {
			w.link.cause = cause
			w.link.now.close()
		}
		w.link.mu.Unlock()
		w.Conn.Close()
	})
}
