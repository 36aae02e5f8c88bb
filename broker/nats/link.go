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
		l.handleErrors(conn)
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
	nkey      func()                 // guarded by mu; called before each connection; may be nil
	now       epoch                  // guarded by mu
	renewed   chan struct{}          // guarded by mu; closed and replaced when now is
	wire      *wire                  // guarded by mu; nil before the first
	cause     error                  // guarded by mu; why the current one has ended
	handles   bool                   // guarded by mu; handleErrors was called
	listeners map[*listener]struct{} // guarded by mu
}

// listener is told of every error that nats.go reports of the connection.
type listener struct {
	told func(error) // must not block
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
	return &link{
		dial:      dial,
		now:       epoch{down: down, end: new(time.Time)},
		renewed:   make(chan struct{}),
		cause:     errors.New("not connected"),
		listeners: make(map[*listener]struct{}),
	}
}

// Dial implements nats.CustomDialer.
func (l *link) Dial(network, address string) (net.Conn, error) {
	l.mu.Lock()
	renew := l.nkey
	l.mu.Unlock()
	if renew != nil {
		renew()
	}
	c, err := l.dial(network, address)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if l.now.ended() {
			l.cause = err
		}
		return nil, err
	}
	w := &wire{Conn: c, link: l}
	if !l.now.ended() {
		l.now.close()
	}
	l.now = epoch{n: l.now.n + 1, since: time.Now(), down: make(chan struct{}), end: new(time.Time)}
	l.wire, l.cause = w, nil
	close(l.renewed)
	l.renewed = make(chan struct{})
	return w, nil
}

// nkeyOf has the public key of an NKey read again, from a file with its seed, for each connection. nats.go reads
// the seed again by itself, and holds the lock of its options while it dials.
func (l *link) nkeyOf(conn *natsio.Conn, file string) {
	if file == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nkey = func() {
		if key, err := publicKey(file); err == nil {
			conn.Opts.Nkey = key
		}
	}
}

// handleErrors has listeners told of what nats.go reports, before the application's own handler.
func (l *link) handleErrors(conn *natsio.Conn) {
	l.mu.Lock()
	first := !l.handles
	l.handles = true
	l.mu.Unlock()
	if !first {
		return
	}
	application := conn.ErrorHandler()
	conn.SetErrorHandler(func(c *natsio.Conn, s *natsio.Subscription, err error) {
		l.mu.Lock()
		listeners := slices.Collect(maps.Keys(l.listeners))
		l.mu.Unlock()
		for _, h := range listeners {
			h.told(err)
		}
		if application != nil {
			application(c, s, err)
		}
	})
}

func (l *link) listen(h *listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners[h] = struct{}{}
}

func (l *link) unlisten(h *listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.listeners, h)
}

func (l *link) current() epoch {
	e, _ := l.watch()
	return e
}

// watch also returns a channel that is closed when there is another epoch.
func (l *link) watch() (e epoch, renewed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now, l.renewed
}

// is reports whether e is the current epoch, and has not ended.
func (l *link) is(e epoch) bool { return l.current().n == e.n && !e.ended() }

// why returns why there is no connection.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		return errReplaced
	}
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
