package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/drivers"
	"tether/broker/memory"
	"tether/cluster"
	"tether/engine"
	"tether/internal/backend"
	"tether/internal/long"
	"tether/transport"
)

// patience bounds what a test waits for; it is long because the machine may be slow.
const patience = 30 * time.Second

// echo is a receiver that sends back what it gets, and tells of its end.
type echo struct {
	c      engine.Conn
	closed chan engine.Reason // of one
}

func (e *echo) Text(data []byte) error {
	return e.c.Send(engine.NewPacket(engine.Terms{}, append([]byte{'4'}, data...)), nil)
}

func (e *echo) Binary(data []byte) error {
	return e.c.Send(engine.NewPacket(engine.Terms{}, nil, data), nil)
}

func (e *echo) Busy() <-chan struct{}       { return nil }
func (e *echo) Closed(reason engine.Reason) { e.closed <- reason }

// node is a node of echoes. Requests are given to its handler by hand.
type node struct {
	t      testing.TB
	name   string
	broker broker.Broker
	member *cluster.Node
	relay  *Relay
	peer   *httptest.Server // nil if it takes no requests over HTTP
	*transport.Handler
	echoes chan *echo
	stop   func()        // the node says that it ends
	hold   chan struct{} // requests of other nodes wait until it is closed; nil: they do not
}

// holding is a relay whose node may let the requests of others wait.
type holding struct {
	*Relay
	x *node
}

func (r holding) Serve(h http.Handler) {
	r.Relay.Serve(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if r.x.hold != nil {
			<-r.x.hold
		}
		h.ServeHTTP(w, q)
	}))
}

// opener opens a broker for one more node, which takes requests over HTTP, too, or not.
type opener struct {
	open func(t testing.TB) broker.Broker
	peer bool
	o    Options
}

func memoryBroker() opener {
	bus := memory.NewBus()
	return opener{open: func(testing.TB) broker.Broker { return bus.Broker() }}
}

// serverAt is a broker that is a server.
func serverAt(url string) opener {
	return opener{open: func(t testing.TB) broker.Broker {
		b, err := long.Again(broker.ErrUnavailable, func() (broker.Broker, error) { return drivers.Mux().Open(t.Context(), url) })
		if err != nil {
			t.Fatal(err)
		}
		return b
	}}
}

// overHTTP has nodes pass requests on over HTTP.
func overHTTP() opener {
	o := memoryBroker()
	o.peer = true
	return o
}

func TestMain(m *testing.M) {
	long.Parallel(4)
	os.Exit(m.Run())
}

// everyBroker runs a test on each of them.
func everyBroker(t *testing.T, test func(t *testing.T, open opener)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, memoryBroker())
	})
	t.Run("HTTP", func(t *testing.T) {
		t.Parallel()
		test(t, overHTTP())
	})
	for name, start := range map[string]func(testing.TB, ...string) *backend.Server{"redis": backend.Redis, "nats": backend.NATS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, serverAt(start(t).URL))
		})
	}
}

// start starts nodes that know each other.
func start(t testing.TB, open opener, n int, o transport.Options) []*node {
	t.Helper()
	var nodes []*node
	for i := range n {
		nodes = append(nodes, startOne(t, open, fmt.Sprintf("node%04d", i), o))
	}
	for _, x := range nodes {
		x.awaitMembers(n)
	}
	return nodes
}

func startOne(t testing.TB, open opener, name string, o transport.Options) *node {
	t.Helper()
	x := &node{t: t, name: name, broker: open.open(t), echoes: make(chan *echo, 64)}
	x.member = cluster.New(x.broker, cluster.Options{
		Prefix: "relay", Tag: name, Self: func() cluster.Member { return cluster.Member{Name: name} },
	})
	peers := http.NewServeMux()
	if open.peer {
		x.peer = httptest.NewServer(peers)
		t.Cleanup(x.peer.Close)
		open.o.Peer = x.peer.URL
	}
	var err error
	if x.relay, err = New(x.member, open.o); err != nil {
		t.Fatal(err)
	}
	peers.Handle(Path, x.relay)
	o.Relay = holding{x.relay, x}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	x.Handler, err = transport.NewHandler(engine.AttachFunc(func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
		e := &echo{c: c, closed: make(chan engine.Reason, 1)}
		x.echoes <- e
		return e, nil
	}), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan struct{})
	go func() { // until cancel; received below
		defer close(ended)
		_ = x.member.Serve(ctx, func() { close(up) }) // an error when the broker is closed first
	}()
	x.stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(func() {
		x.Close()
		x.stop()
		x.broker.Close()
	})
	receive(t, up)
	return x
}

// awaitMembers waits until the node knows n.
func (x *node) awaitMembers(n int) {
	x.t.Helper()
	deadline := time.After(patience)
	for {
		changed := x.member.Changed()
		if list, err := x.member.Members(); err == nil && len(list) == n {
			return
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond): // the list may be complete without a change
		case <-deadline:
			x.t.Fatalf("%s does not know %d nodes", x.name, n)
		}
	}
}

// awaitLen waits until the node has n sessions: its receiver may hear of an end first.
func (x *node) awaitLen(n int) {
	x.t.Helper()
	for deadline := time.Now().Add(patience); x.Len() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			x.t.Fatalf("%s has %d sessions, want %d", x.name, x.Len(), n)
		}
	}
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// answered is what a client gets.
type answered struct {
	status int
	body   string
}

func (a answered) String() string { return fmt.Sprintf("%d %.100q", a.status, a.body) }

var unknown = answered{400, `{"code":1,"message":"Session ID unknown"}`}

func (x *node) do(ctx context.Context, method, query, body string) answered {
	r := httptest.NewRequestWithContext(ctx, method, "/socket.io/?EIO=4&transport=polling"+query, strings.NewReader(body))
	w := httptest.NewRecorder()
	x.ServeHTTP(w, r)
	return answered{w.Code, w.Body.String()}
}

// client polls, each time at another node.
type client struct {
	t     testing.TB
	nodes []*node
	sid   string
	turn  int
	echo  *echo
}

// open opens a session at the first node.
func open(t testing.TB, nodes []*node) *client {
	t.Helper()
	c := &client{t: t, nodes: nodes}
	got := nodes[0].do(t.Context(), "GET", "", "")
	var opened struct{ SID string }
	if got.status != 200 || json.Unmarshal([]byte(got.body[1:]), &opened) != nil {
		t.Fatalf("got %v", got)
	}
	c.sid, c.echo = opened.SID, receive(t, nodes[0].echoes)
	if !strings.HasSuffix(c.sid, nodes[0].name) || c.echo.c.ID() != c.sid {
		t.Fatalf("the ID is %s, for the receiver %s", c.sid, c.echo.c.ID())
	}
	return c
}

func (c *client) do(method, body string) answered {
	c.turn++
	return c.at(c.turn, method, body)
}

// at sends a request to one node.
func (c *client) at(turn int, method, body string) answered {
	return c.nodes[turn%len(c.nodes)].do(c.t.Context(), method, "&sid="+c.sid, body)
}

func (c *client) post(body string) {
	c.t.Helper()
	if got := c.do("POST", body); got != (answered{200, "ok"}) {
		c.t.Fatalf("POST: got %v", got)
	}
}

func (c *client) want(body string) {
	c.t.Helper()
	if got := c.do("GET", ""); got != (answered{200, body}) {
		c.t.Fatalf("GET: got %v, want %.100q", got, body)
	}
}

// closes waits for the end of the session.
func (c *client) closes(want engine.Reason) {
	c.t.Helper()
	if got := receive(c.t, c.echo.closed); got != want {
		c.t.Fatalf("it ended for %q, want %q", got, want)
	}
}
