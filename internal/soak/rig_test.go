package soak

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/drivers"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/ledger"
	"tether/internal/long"
	"tether/transport"
)

// soakFor is how long a test that can be repeated goes on; 0: once, with small numbers.
var soakFor = func() time.Duration {
	d, _ := time.ParseDuration(os.Getenv("TETHER_SOAK"))
	return d
}()

// scaled is a number for a run of all tests, and one for a soak. The default run takes a fifth of the former.
func scaled(whole, soak int) int {
	if soakFor > 0 {
		return soak
	}
	if raceDetector {
		return max(whole/5, 1)
	}
	return long.Or(max(whole/5, 1), whole)
}

// amount is a number that the environment may set; else as scaled.
func amount(env string, whole, soak int) int {
	if n, err := strconv.Atoi(os.Getenv(env)); err == nil {
		return n
	}
	return scaled(whole, soak)
}

// watched logs every ten seconds, until stop is called, how far a long run is.
func watched(t testing.TB, progress func() string) (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(10 * time.Second)
		defer ticker.Stop()
		for began := time.Now(); ; {
			select {
			case <-ended:
				return
			case <-ticker.C:
				t.Logf("%v: %s", time.Since(began).Round(time.Second), progress())
			}
		}
	})
	return func() { close(ended); wg.Wait() }
}

// repeat runs f once, or again and again for soakFor.
func repeat(t *testing.T, f func(t *testing.T)) {
	for began := time.Now(); ; {
		f(t)
		if time.Since(began) >= soakFor || t.Failed() {
			return
		}
	}
}

func figure(t testing.TB, name string, format string, args ...any) {
	t.Helper()
	t.Logf("figure: %s: %s", name, fmt.Sprintf(format, args...))
}

// rig is a cluster in this process.
type rig struct {
	t     testing.TB
	book  *ledger.Ledger
	mux   broker.Mux
	urls  []string // of the broker's servers, which nodes take in turn
	nodes []*node

	// install gives a hub more than its users, before it runs. Nil: nothing.
	install func(n *node, h *hub.Hub) error
}

// node is one node of it, on a loopback port.
type node struct {
	rig     *rig
	name    string
	proxy   *faultproxy.Proxy // to the backend; nil for the memory broker
	broker  broker.Broker
	calls   *counted
	hub     *hub.Hub
	handler *transport.Handler
	server  *http.Server
	addr    string
	cancel  context.CancelFunc
	ended   chan struct{}
	err     error // of Run; valid after ended
}

// counted counts the calls that change subscriptions.
type counted struct {
	broker.Broker
	calls, subjects atomic.Int64
	now, most       atomic.Int64 // calls at the same time
	slow            atomic.Int64 // nanoseconds that a call takes longer
}

// Log implements [broker.Logger].
func (c *counted) Log() (broker.Log, error) { return c.Broker.(broker.Logger).Log() }

func (c *counted) Subscribe(ctx context.Context, subjects ...string) []error {
	if now := c.now.Add(1); now > c.most.Load() {
		c.most.Store(now)
	}
	defer c.now.Add(-1)
	c.calls.Add(1)
	c.subjects.Add(int64(len(subjects)))
	if slow := c.slow.Load(); slow > 0 {
		select {
		case <-time.After(time.Duration(slow)):
		case <-ctx.Done():
		}
	}
	return c.Broker.Subscribe(ctx, subjects...)
}

// backends are what the tests run on.
var backends = map[string]func(t testing.TB) *backend.Server{
	"redis": func(t testing.TB) *backend.Server { return backend.Redis(t) },
	"nats":  func(t testing.TB) *backend.Server { return backend.NATS(t) },
}

// patient is how long a message may take to clients that come and go: one that reads late, because the machine has
// other work, may have left with the message unread.
func patient(latency time.Duration) time.Duration {
	return min(long.Limit(latency), 10*time.Second)
}

// newRig starts nodes on a broker. Several URLs, with blanks between, are several servers of one. addr is the backend's, ""
// for one that is not reached through a proxy.
func newRig(t testing.TB, brokerURL, addr string, nodes int, latency time.Duration, o hub.Options, to transport.Options) *rig {
	t.Helper()
	r := &rig{t: t, book: ledger.New(latency), mux: drivers.Mux(), urls: strings.Fields(brokerURL)}
	if _, overtakes := overtaking.Load(brokerURL); overtakes {
		r.book.Overtakes()
	}
	for range nodes {
		r.start(addr, o, to)
	}
	return r
}

// open opens the broker, through a proxy if there is one.
func (r *rig) open(proxy *faultproxy.Proxy) broker.Broker {
	r.t.Helper()
	u, err := url.Parse(r.urls[len(r.nodes)%len(r.urls)])
	if err != nil {
		r.t.Fatal(err)
	}
	if proxy != nil {
		u.Host = proxy.Addr()
	}
	b, err := long.Again(broker.ErrUnavailable, func() (broker.Broker, error) { return r.mux.Open(r.t.Context(), u.String()) })
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) start(addr string, o hub.Options, to transport.Options) *node {
	r.t.Helper()
	n := &node{rig: r, name: cmp.Or(o.Node, fmt.Sprintf("node-%d", len(r.nodes))), ended: make(chan struct{})}
	if addr != "" {
		n.proxy = faultproxy.New(r.t, addr)
	}
	n.broker = r.open(n.proxy)
	n.calls = &counted{Broker: n.broker}
	o.Node = n.name
	if o.DrainWindow == 0 {
		o.DrainWindow = -1
	}
	o.OnGap = func(g broker.Gap) {
		r.book.Gap(n.name, g)
		if strings.HasPrefix(g.Cause.Error(), "hub: ") { // it was frozen, and drops its connections now
			r.book.Drop(n.name)
		}
		r.t.Logf("%s: a gap of %v until %s: %v", n.name, g.To.Sub(g.From).Round(time.Millisecond), g.To.Format(time.TimeOnly+".000"), g.Cause)
	}
	o.Logger = slog.New(slog.DiscardHandler)
	h, err := hub.New(n.calls, o)
	if err != nil {
		r.t.Fatal(err)
	}
	n.hub = h
	register(h)
	if r.install != nil {
		if err := r.install(n, h); err != nil {
			r.t.Fatal(err)
		}
	}
	to.Logger = slog.New(slog.DiscardHandler)
	n.handler, err = transport.NewHandler(h, to)
	if err != nil {
		r.t.Fatal(err)
	}
	n.server = transport.NewServer("", n.handler)
	n.server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	n.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(n.ended)
		n.err = h.Run(ctx)
	})
	wg.Go(func() { n.server.Serve(transport.Listener(l)) })
	r.t.Cleanup(func() {
		n.stop()
		wg.Wait()
	})
	must(r.t, n.name+" ready", func() bool { return h.Ready() == nil })
	r.nodes = append(r.nodes, n)
	return n
}

// stop ends the node, and tells all others to end.
func (n *node) stop() {
	if n.proxy != nil {
		n.proxy.Heal()
	}
	n.cancel()
	for _, other := range n.rig.nodes { // all drain at the same time
		other.cancel()
	}
	<-n.ended
	n.server.Close()
	n.handler.Close()
	n.broker.Close()
}

// register makes the sockets of a hub those of the user that they say they are.
func register(h *hub.Hub) {
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var auth struct{ User string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
			return err
		}
		return s.Register(ctx, auth.User)
	})
}

// connect connects a client to a node and fails the test if it cannot.
func (r *rig) connect(n *node, user string, how carrier) *client {
	r.t.Helper()
	c := newClient(r.book, n.name, n.addr, user)
	if err := c.start(how); err != nil {
		r.t.Errorf("%s: %v", n.name, err)
	}
	return c
}

// publisher is one that emits: from a node, or from a process without a hub.
type publisher struct {
	name    string
	emitter *hub.Emitter
}

// publishers are all nodes, and one worker.
func (r *rig) publishers() []publisher {
	var list []publisher
	for _, n := range r.nodes {
		list = append(list, publisher{n.name, n.hub.Emitter()})
	}
	b := r.open(nil)
	r.t.Cleanup(func() { b.Close() })
	return append(list, publisher{"worker", hub.NewEmitter(b, hub.EmitterOptions{})})
}

// emit emits one message to a room. Messages of one publisher to one room have to be emitted by one
// goroutine.
func (r *rig) emit(p publisher, to string) (hub.Receipt, error) {
	m := r.book.Send(p.name, []string{to}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	receipt, err := p.emitter.Emit(ctx, target(to), "n", m.Mark)
	r.book.Sent(m, receipt, err)
	return receipt, err
}

// load emits until stop is closed: each worker has users and a publisher of its own, so that every
// stream has one goroutine. It returns a function that waits for the end and returns what failed.
func (r *rig) load(users []string, stop <-chan struct{}, pause time.Duration) (end func() (slowest time.Duration, failed int)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var slowest time.Duration
	failed := 0
	for _, p := range r.publishers() {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				_, err := r.emit(p, room(users[i%len(users)]))
				took := time.Since(began)
				mu.Lock()
				slowest = max(slowest, took)
				if err != nil {
					failed++
					if !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
						r.t.Errorf("emit: %v", err)
					}
				}
				mu.Unlock()
				select {
				case <-stop:
					return
				case <-time.After(pause):
				}
			}
		})
	}
	return func() (time.Duration, int) {
		wg.Wait()
		return slowest, failed
	}
}

// quiet waits until nothing more arrives.
func (r *rig) quiet() {
	last, since := -1, time.Now()
	must(r.t, "quiet", func() bool {
		if got := r.book.Counts().Received; got != last {
			last, since = got, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
}

// settle closes the book and fails the test for everything that must not be in it.
func (r *rig) settle() ledger.Counts {
	r.t.Helper()
	r.quiet()
	counts := r.book.Settle()
	if counts.Faults() > 0 {
		r.t.Errorf("%v\n%s", counts, strings.Join(r.book.Faults(), "\n"))
	}
	return counts
}

// users are names, some of them hostile.
func users(n int) []string {
	list := []string{"*", ">", "a.b", "a..b", "a b", "a,b", "a\r\nb", "user:1", "ü", strings.Repeat("x", 500)}
	for i := len(list); i < n; i++ {
		list = append(list, fmt.Sprintf("u%d", i))
	}
	return list[:n]
}

// uncounted reports whether a receipt counts no node. On NATS nobody can tell of a node that is silent that it
// is not there.
func (r *rig) uncounted(receipt hub.Receipt, err error) bool {
	silent := strings.HasPrefix(r.urls[0], "nats:") && receipt.Bound == broker.Unknown
	return err == nil && (silent || receipt.Nobody())
}

// waiting runs a test that mostly waits on each backend, on all at the same time.
func waiting(t *testing.T, f func(t *testing.T, brokerURL, addr string, s *backend.Server)) {
	for name, server := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repeat(t, func(t *testing.T) {
				s := server(t)
				if s.Kind == backend.StandIn {
					t.Skip("a stand-in cannot be frozen, nor cut off a node that is")
				}
				f(t, s.URL, s.Addr, s)
			})
		})
	}
}

// on runs a test on each backend, in the default run on that which most stacks have.
func on(t *testing.T, f func(t *testing.T, brokerURL, addr string, s *backend.Server)) {
	for _, name := range long.Or([]string{"redis"}, []string{"redis", "nats"}) {
		t.Run(name, func(t *testing.T) {
			repeat(t, func(t *testing.T) {
				s := backends[name](t)
				if s.Kind == backend.StandIn && name == "redis" {
					overtaking.Store(s.URL, true)
				}
				f(t, s.URL, s.Addr, s)
			})
		})
	}
}

// overtaking are the URLs of brokers that confirm the end of a subscription ahead of messages for it.
var overtaking sync.Map

// onAll is on, with the memory broker too where all tests are to run.
func onAll(t *testing.T, f func(t *testing.T, brokerURL, addr string)) {
	t.Run("memory", func(t *testing.T) {
		long.Only(t)
		repeat(t, func(t *testing.T) { f(t, "memory://", "") })
	})
	on(t, func(t *testing.T, brokerURL, addr string, _ *backend.Server) { f(t, brokerURL, addr) })
}

// clusters are brokers of several servers, as newRig wants their URLs.
var clusters = map[string]func(t testing.TB) string{
	"redis sentinel": func(t testing.TB) string { return backend.RedisSentinels(t, backend.RedisProduct).URL },
	"redis cluster":  func(t testing.TB) string { return backend.RedisCluster(t, backend.RedisProduct, 0).URL },
	"nats cluster": func(t testing.TB) string {
		var urls []string
		for _, s := range backend.NATSCluster(t, 3, backend.NATSRoutes{}) {
			urls = append(urls, s.URL+"?discover=no")
		}
		return strings.Join(urls, " ")
	},
}

// everywhere is onAll, and where all tests are to run clusters too.
func everywhere(t *testing.T, f func(t *testing.T, brokerURL, addr string)) {
	onAll(t, f)
	for name, start := range clusters {
		t.Run(name, func(t *testing.T) {
			long.Only(t)
			repeat(t, func(t *testing.T) { f(t, start(t), "") })
		})
	}
}
