package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
	"tether/internal/deptest"
	"tether/transport"
)

func TestTheRelayKnowsNeitherHubNorTransport(t *testing.T) {
	deptest.Only(t, "tether/relay", "tether/engine", "tether/broker", "tether/cluster", "tether/internal/group", "tether/internal/wire")
}

// TestRequestsComeToAnyNode has a client that comes to another node with each request.
func TestRequestsComeToAnyNode(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, broker opener) {
		c := open(t, start(t, broker, 3, transport.Options{}))
		c.post("4x") // it is kept for a moment
		c.want("4x")
		for i := range 30 {
			text := fmt.Sprint("4", i)
			c.post(text + "\x1ebAQID")
			c.want(text + "\x1ebAQID")
		}
		for _, n := range []int{maxInline - 1, maxInline, maxInline + 1, 65_536, 1_000_000} { // with the type
			text := "4" + strings.Repeat("é", (n-1)/2) + strings.Repeat("x", (n-1)%2)
			c.post(text)
			c.want(text)
		}
		c.turn = 0 // at another node than the owner
		c.post("1")
		c.closes(engine.ReasonTransportClose)
	})
}

// TestAPOSTIsAnsweredWhenItsOwnerHasTakenIt: else the client's next one, through another node, could overtake it.
func TestAPOSTIsAnsweredWhenItsOwnerHasTakenIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, start(t, memoryBroker(), 2, transport.Options{}))
		c.nodes[0].hold = make(chan struct{})
		got := make(chan answered, 1)
		go func() { got <- c.at(1, "POST", "4x") }() // received below
		synctest.Wait()
		early := len(got)
		close(c.nodes[0].hold)
		if a := <-got; early > 0 || a != (answered{200, "ok"}) {
			t.Errorf("got %v, before it was taken: %t", a, early > 0)
		}
		c.want("4x")
	})
}

// TestANodeThatEndsLetsGoWhatItHasPassedOn: the GET that waits is answered, and the client gets the rest elsewhere.
func TestANodeThatEndsLetsGoWhatItHasPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, start(t, memoryBroker(), 3, transport.Options{}))
		got := make(chan answered, 1)
		go func() { got <- c.at(1, "GET", "") }() // received below
		synctest.Wait()
		began := time.Now()
		c.nodes[1].stop()
		if a := <-got; a != (answered{200, "6"}) || time.Since(began) > time.Second {
			t.Errorf("got %v after %v", a, time.Since(began))
		}
		if a := c.at(1, "GET", ""); a.status != 503 {
			t.Errorf("a node that has ended: got %v", a)
		}
		c.echo.Text([]byte("x"))
		if a := c.at(2, "GET", ""); a != (answered{200, "4x"}) {
			t.Errorf("got %v", a)
		}
	})
}

// TestAGETThatAProxySendsAgainEndsTheSession: what the first answer had is lost with the node that it went through.
func TestAGETThatAProxySendsAgainEndsTheSession(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, broker opener) {
		nodes := start(t, broker, 3, transport.Options{})
		for _, again := range []int{0, 2} { // at the owner, and at a third node
			c := open(t, nodes)
			c.echo.Text([]byte("x"))
			get := func(turn int, name string) answered {
				return c.nodes[turn].do(t.Context(), "GET", "&sid="+c.sid+"&t="+name, "")
			}
			for _, name := range []string{"a", "b"} {
				if got := get(1, name); got != (answered{200, "4x"}) {
					t.Fatalf("got %v", got)
				}
				c.echo.Text([]byte("x"))
			}
			if got := get(again, "b"); got.status != 400 {
				t.Errorf("got %v", got)
			}
			c.closes(engine.ReasonTransportError)
		}
	})
}

// TestPOSTsThroughAnyNodeKeepTheirOrder has a client send each to another node than the one before.
func TestPOSTsThroughAnyNodeKeepTheirOrder(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, broker opener) {
		const posts = 100
		c := open(t, start(t, broker, 3, transport.Options{}))
		for i := range posts {
			c.post(fmt.Sprint("4", i))
		}
		for n := 0; n < posts; {
			got := c.do("GET", "")
			for _, text := range strings.Split(got.body, "\x1e") {
				if want := fmt.Sprint("4", n); got.status != 200 || text != want {
					t.Fatalf("got %v, want %s", got, want)
				}
				n++
			}
		}
	})
}

func TestAnAnswerThatWaitsComesAtOnce(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, broker opener) {
		c := open(t, start(t, broker, 2, transport.Options{}))
		for i := range 10 {
			got := make(chan answered, 1)
			go func() { got <- c.at(1, "GET", "") }() // received below
			if i > 4 {
				c.at(1, "POST", "4x")
			} else if err := c.echo.Text([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, got); got != (answered{200, "4x"}) {
				t.Fatalf("got %v", got)
			}
		}
	})
}

func TestAnIDThatNamesNoSessionIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	nodes := start(t, memoryBroker(), 2, transport.Options{})
	c := open(t, nodes)
	secret := c.sid[:20]
	other := strings.Map(func(r rune) rune {
		if r == 'A' {
			return 'B'
		}
		return 'A'
	}, secret)
	asked := func() uint64 {
		o := nodes[1].member.Outcomes()
		return o.Complete + o.Gone + o.Late + o.Lost + o.Left + o.Failed
	}
	for _, x := range []struct {
		name, sid string
		asks      uint64
	}{
		{"of no live node", secret + "node9999", 0},
		{"of this node", other + "node0001", 0},
		{"of a node that does not have it", other + "node0000", 1},
		{"of another node with a name that is ours", secret + "node0001", 0},
		{"without a node", secret, 0},
		{"too short for a node", "node0000", 0},
		{"too long", secret + "xnode0000", 0},
		{"of no form", "%22%3C%0A" + secret[3:] + "node0000", 0},
		{"empty but for the node", "node0000node0000", 0},
	} {
		for _, method := range []string{"GET", "POST"} {
			before := asked()
			if got := nodes[1].do(t.Context(), method, "&sid="+x.sid, ""); got != unknown {
				t.Errorf("%s, %s: got %v", x.name, method, got)
			}
			if got := asked() - before; got != x.asks {
				t.Errorf("%s, %s: %d questions, want %d", x.name, method, got, x.asks)
			}
		}
	}
	for _, method := range []string{"END", "PUT", "DELETE"} { // of clients, these do nothing
		if got := nodes[1].do(t.Context(), method, "&sid="+c.sid, ""); got.status != 500 {
			t.Errorf("%s: got %v", method, got)
		}
	}
	c.post("4x")
	c.want("4x")
}

func TestAtTheOwnerOneGETAndOnePOSTAreServedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := start(t, memoryBroker(), 3, transport.Options{})
		c := open(t, nodes)
		first := make(chan answered, 1)
		go func() { first <- c.at(1, "GET", "") }()
		synctest.Wait()
		if got := c.at(2, "GET", ""); got.status != 400 { // as the reference server has it
			t.Errorf("a second GET: got %v", got)
		}
		c.closes(engine.ReasonTransportError)
		if got := <-first; got != (answered{200, "1"}) {
			t.Errorf("the first GET: got %v", got)
		}
		if got := c.at(1, "GET", ""); got != unknown {
			t.Errorf("got %v", got)
		}
	})
}

func TestAClientThatGivesUpItsGETEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, start(t, memoryBroker(), 2, transport.Options{}))
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan answered, 1)
		go func() { got <- c.nodes[1].do(ctx, "GET", "&sid="+c.sid, "") }()
		synctest.Wait()
		cancel()
		<-got
		c.closes(engine.ReasonTransportError)
	})
}

func TestABodyThatIsTooLargeEndsTheSession(t *testing.T) {
	for _, n := range []int{1000, 1001} {
		c := open(t, start(t, memoryBroker(), 2, transport.Options{MaxPayload: 1000}))
		body := "4" + strings.Repeat("x", n-1)
		got := c.at(1, "POST", body)
		if n <= 1000 {
			if got != (answered{200, "ok"}) {
				t.Errorf("at the limit: got %v", got)
			}
			c.want(body)
			continue
		}
		if got.status != 413 {
			t.Errorf("past the limit: got %v", got)
		}
		c.closes(engine.ReasonTransportError)
	}
}

func TestAHeartbeatCrossesTheHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, start(t, memoryBroker(), 2, transport.Options{}))
		for range 3 {
			if got := c.at(1, "GET", ""); got != (answered{200, "2"}) {
				t.Fatalf("got %v", got)
			}
			if got := c.at(1, "POST", "3"); got != (answered{200, "ok"}) {
				t.Fatalf("got %v", got)
			}
		}
		if got := c.at(1, "GET", ""); got != (answered{200, "2"}) {
			t.Fatalf("got %v", got)
		}
		if got := c.at(1, "GET", ""); got != (answered{200, "1"}) { // without a pong
			t.Fatalf("got %v", got)
		}
		c.closes(engine.ReasonPingTimeout)
	})
}

// TestTheDeathOfTheOwnerIsToldWhenItsLeaseEnds: a node that is killed says nothing.
func TestTheDeathOfTheOwnerIsToldWhenItsLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := start(t, memoryBroker(), 3, transport.Options{})
		c := open(t, nodes)
		waiting := make(chan answered, 1)
		go func() { waiting <- c.at(1, "GET", "") }()
		time.Sleep(time.Second) // in fake time
		nodes[0].broker.Close()
		killed := time.Now()
		late := make(chan answered, 1)
		go func() { late <- c.at(2, "POST", "4x") }()
		for _, got := range []answered{<-waiting, <-late} {
			if got != unknown {
				t.Errorf("got %v", got)
			}
		}
		if took := time.Since(killed); took > 6*time.Second { // a lease of five, counted from the last beat, and one
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Until(killed.Add(6 * time.Second)))
		before := time.Now()
		if got := c.at(1, "GET", ""); got != unknown || time.Since(before) != 0 {
			t.Errorf("got %v after %v", got, time.Since(before))
		}
	})
}

func TestAnOwnerThatEndsIsGoneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := start(t, memoryBroker(), 2, transport.Options{})
		c := open(t, nodes)
		waiting := make(chan answered, 1)
		go func() { waiting <- c.at(1, "GET", "") }()
		time.Sleep(time.Second)
		nodes[0].Close()
		nodes[0].stop()
		if got := <-waiting; got != (answered{200, "1"}) {
			t.Errorf("got %v", got)
		}
		if got := c.at(1, "GET", ""); got != unknown {
			t.Errorf("got %v", got)
		}
	})
}

// TestANodeThatHasJustBegunWaitsUntilItKnowsTheOthers: that it has not heard of a node is no proof yet.
func TestANodeThatHasJustBegunWaitsUntilItKnowsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := memoryBroker()
		c := open(t, start(t, broker, 1, transport.Options{}))
		c.nodes = append(c.nodes, startOne(t, broker, "node0001", transport.Options{}))
		c.echo.Text([]byte("x"))
		if got := c.at(1, "GET", ""); got != (answered{200, "4x"}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestIDsOfTheApplicationNameTheNodeToo(t *testing.T) {
	t.Parallel()
	o := transport.Options{GenerateID: func(r *http.Request) (string, error) {
		if name := r.Header.Get("X-Name"); name != "" {
			return name, nil
		}
		return "", errors.New("it has no name")
	}}
	nodes := start(t, memoryBroker(), 2, o)
	r := httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=polling", nil)
	r.Header.Set("X-Name", "a.b")
	w := httptest.NewRecorder()
	nodes[0].ServeHTTP(w, r)
	c := &client{t: t, nodes: nodes, sid: "a.bnode0000", echo: receive(t, nodes[0].echoes)}
	if c.echo.c.ID() != c.sid || !strings.Contains(w.Body.String(), `"sid":"`+c.sid+`"`) {
		t.Errorf("the ID is %s, and the answer %s", c.echo.c.ID(), w.Body)
	}
	c.post("4x")
	c.want("4x")
	if got := nodes[1].do(t.Context(), "GET", "&sid=a.cnode0000", ""); got != unknown {
		t.Errorf("got %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add((&request{method: "GET", query: "sid=x", header: map[string][]string{"A": {"b"}}}).append(nil))
	f.Add((&request{method: "POST", length: 3, body: []byte("4xx")}).append(nil))
	f.Add(appendHead(nil, 200, map[string][]string{"Content-Length": {"2"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, ok := parseRequest(b); ok {
			again, ok := parseRequest(q.append(nil))
			if !ok || again.query != q.query || !slices.Equal(again.body, q.body) || len(again.header) != len(q.header) {
				t.Errorf("%+v comes back as %+v", q, again)
			}
		}
		if status, h, _, err := parseHead(b); err == nil {
			if again, _, _, err := parseHead(appendHead(nil, status, h)); err != nil || again != status {
				t.Errorf("status %d comes back as %d, %v", status, again, err)
			}
		}
	})
}

// TestAClientThatDoesNotReadIsGivenUpByTheOwner: what it does not take stays at the owner, and after WriteTimeout it
// is as slow as if it had come there.
func TestAClientThatDoesNotReadIsGivenUpByTheOwner(t *testing.T) {
	t.Parallel()
	nodes := start(t, memoryBroker(), 2, transport.Options{QueueBytes: 64 << 20, WriteTimeout: 300 * time.Millisecond})
	c := open(t, nodes)
	server := transport.NewServer("", nodes[1])
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { // until Close; received below
		defer close(served)
		_ = server.Serve(transport.Listener(l))
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := c.echo.Text(bytes.Repeat([]byte("x"), 32<<20)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: x\r\n\r\n", c.sid)
	c.closes(engine.ReasonTransportError)
}
