package relay

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker/seal"
	"tether/internal/backend"
	"tether/transport"
)

// questions is how many a node has put, through the broker.
func (x *node) questions() uint64 {
	o := x.member.Outcomes()
	return o.Complete + o.Gone + o.Late + o.Lost + o.Left + o.Failed
}

func TestOverHTTPTheBrokerHasNothingToDo(t *testing.T) {
	t.Parallel()
	nodes := start(t, overHTTP(), 2, transport.Options{})
	c := open(t, nodes)
	for _, n := range []int{2, 65_536, 1_000_000} {
		text := "4" + strings.Repeat("x", n-1)
		if got := c.at(1, "POST", text); got != (answered{200, "ok"}) {
			t.Fatalf("got %v", got)
		}
		if got := c.at(1, "GET", ""); got != (answered{200, text}) {
			t.Fatalf("got %v", got)
		}
	}
	if got := c.at(1, "POST", "x"); got != (answered{200, "ok"}) { // as the reference server answers it
		t.Errorf("got %v", got)
	}
	if got := c.at(1, "GET", ""); got != unknown {
		t.Errorf("got %v", got)
	}
	if n := nodes[1].questions(); n != 0 {
		t.Errorf("%d questions", n)
	}
}

// TestANodeThatCannotBeReachedOverHTTPIsReachedThroughTheBroker: its address is refused, or is that of somebody else.
func TestANodeThatCannotBeReachedOverHTTPIsReachedThroughTheBroker(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, x, other *node){
		"nobody listens":    func(_ *testing.T, x, _ *node) { x.peer.Close() },
		"another node does": func(_ *testing.T, x, other *node) { x.peer.Config.Handler = other.relay },
		"another program":   func(_ *testing.T, x, _ *node) { x.peer.Config.Handler = http.NotFoundHandler() },
	} {
		t.Run(name, func(t *testing.T) {
			nodes := start(t, overHTTP(), 2, transport.Options{})
			spoil(t, nodes[0], nodes[1])
			c := open(t, nodes)
			c.turn = 0
			c.post("4x")
			if got := c.at(1, "GET", ""); got != (answered{200, "4x"}) {
				t.Errorf("got %v", got)
			}
			if n := nodes[1].questions(); n != 2 {
				t.Errorf("%d questions, want 2", n)
			}
		})
	}
}

// TestARequestIsNotPassedOnTwice: what may have been served is not sent again another way.
func TestARequestIsNotPassedOnTwice(t *testing.T) {
	t.Parallel()
	t.Run("GET", func(t *testing.T) { // on a connection that has been used, where net/http sends a GET again
		nodes := start(t, overHTTP(), 2, transport.Options{})
		c := open(t, nodes)
		c.at(1, "POST", "4x")
		var asked atomic.Int32
		nodes[0].peer.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.Method == methodPoll {
				asked.Add(1)
			}
			panic(http.ErrAbortHandler)
		})
		nodes[0].peer.Config.ErrorLog = nil
		if got := c.at(1, "GET", ""); got.status != http.StatusBadGateway || asked.Load() != 1 {
			t.Errorf("got %v after %d requests", got, asked.Load())
		}
	})
	nodes := start(t, overHTTP(), 2, transport.Options{})
	c := open(t, nodes)
	served := nodes[0].relay
	nodes[0].peer.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.ServeHTTP(&discard{}, r)
		panic(http.ErrAbortHandler) // the answer is lost
	})
	nodes[0].peer.Config.ErrorLog = nil
	if got := c.at(1, "POST", "4x"); got.status != http.StatusBadGateway {
		t.Errorf("got %v", got)
	}
	if got := c.at(0, "GET", ""); got != (answered{200, "4x"}) {
		t.Errorf("got %v", got)
	}
	if n := nodes[1].questions(); n != 0 {
		t.Errorf("%d questions", n)
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header {
	if d.header == nil {
		d.header = http.Header{}
	}
	return d.header
}
func (*discard) WriteHeader(int)             {}
func (*discard) Write(b []byte) (int, error) { return len(b), nil }

// TestACallToANodeThatHasGoneEnds although its server still has the connection.
func TestACallToANodeThatHasGoneEnds(t *testing.T) {
	t.Parallel()
	nodes := start(t, overHTTP(), 2, transport.Options{})
	c := open(t, nodes)
	came, free := make(chan struct{}), make(chan struct{})
	defer close(free)
	nodes[0].peer.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(came)
		<-free
	})
	got := make(chan answered, 1)
	go func() { got <- c.at(1, "GET", "") }()
	receive(t, came)
	nodes[0].stop()
	if got := receive(t, got); got != unknown {
		t.Errorf("got %v", got)
	}
}

func TestOnlyNodesWithTheKeyAreServedOverHTTP(t *testing.T) {
	t.Parallel()
	one, two := seal.GenerateKey(), seal.GenerateKey()
	for _, x := range []struct {
		name  string
		owner seal.Keys
		want  map[string]int // by what a stranger says
	}{
		{"no key", seal.Keys{}, map[string]int{"": 400, bearer(one): 400}},
		{"a key", seal.Keys{Current: one}, map[string]int{"": 401, bearer(one): 400, bearer(two): 401, "Bearer ": 401}},
		{"a new key", seal.Keys{Current: two, Accept: []seal.Key{one}}, map[string]int{"": 401, bearer(one): 400, bearer(two): 400}},
		{"a first key", seal.Keys{Current: one, Plain: seal.AcceptPlain}, map[string]int{"": 400, bearer(one): 400, bearer(two): 401}},
	} {
		o := overHTTP()
		o.o.Keys = x.owner
		n := start(t, o, 1, transport.Options{})[0]
		for said, want := range x.want {
			r, err := http.NewRequest("GET", n.peer.URL+Path+"?EIO=4&transport=polling&sid=x"+n.name, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set(nodeHeader, n.name)
			r.Header.Set("Authorization", said)
			res, err := n.peer.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s, %.12s: got %d %s, want %d", x.name, said, res.StatusCode, body, want)
			}
			// What only nodes ask for says what a client sent in its handshake: it needs the key.
			own := want == 400 && x.owner.Current != (seal.Key{}) && said != ""
			if status := knock(t, n, "PROBE", said); (status == 400) != own {
				t.Errorf("%s, %.12s: PROBE: got %d", x.name, said, status)
			}
		}
	}
	o := overHTTP()
	o.o.Keys = seal.Keys{Current: one, Seal: true}
	nodes := start(t, o, 2, transport.Options{})
	c := open(t, nodes)
	if got := c.at(1, "POST", "4x"); got != (answered{200, "ok"}) || nodes[1].questions() != 0 {
		t.Errorf("with the key: got %v, %d questions", got, nodes[1].questions())
	}
}

func TestTheOptionsAreChecked(t *testing.T) {
	t.Parallel()
	x := startOne(t, memoryBroker(), "node0000", transport.Options{})
	for _, peer := range []string{"10.0.0.5:3000", "ftp://10.0.0.5", "http://", "http://a:b@10.0.0.5", "http://10.0.0.5/?x", "http://10.0.0.5/#x", "\n"} {
		if _, err := New(x.member, Options{Peer: peer}); err == nil || !strings.Contains(err.Error(), "http://10.0.0.5:3000") {
			t.Errorf("%q: got %v", peer, err)
		}
	}
	if _, err := New(x.member, Options{Keys: seal.Keys{Seal: true}}); err == nil {
		t.Error("keys without a current one are taken")
	}
}

// BenchmarkPolling is one event there and back, of a client that polls: at the owner, and across a hop.
func BenchmarkPolling(b *testing.B) {
	b.Run("sticky", func(b *testing.B) { benchmark(b, memoryBroker(), 0) })
	b.Run("memory", func(b *testing.B) { benchmark(b, memoryBroker(), 1) })
	b.Run("HTTP", func(b *testing.B) { benchmark(b, overHTTP(), 1) })
	b.Run("redis", func(b *testing.B) { benchmark(b, serverAt(backend.Redis(b).URL), 1) })
	b.Run("nats", func(b *testing.B) { benchmark(b, serverAt(backend.NATS(b).URL), 1) })
}

func benchmark(b *testing.B, broker opener, turn int) {
	nodes := start(b, broker, 2, transport.Options{})
	c := open(b, nodes)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if got := c.at(turn, "POST", "4x"); got.status != 200 {
			b.Fatal(got)
		}
		if got := c.at(turn, "GET", ""); got.body != "4x" {
			b.Fatal(got)
		}
		took = append(took, time.Since(began))
	}
	b.ReportMetric(float64(median(took).Nanoseconds()), "median-ns")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// knock sends a request of a node for a session that is not there, and returns the status.
func knock(t *testing.T, n *node, method, authorization string) int {
	t.Helper()
	r, err := http.NewRequest(method, n.peer.URL+Path+"?EIO=4&transport=polling&sid=x"+n.name, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(nodeHeader, n.name)
	r.Header.Set("Authorization", authorization)
	res, err := n.peer.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
