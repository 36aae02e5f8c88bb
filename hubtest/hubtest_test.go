package hubtest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
)

// with is a set-up: newHub, and something more.
func with(o func(*hub.Hub)) hubtest.Setup {
	return func(b broker.Broker) (*hub.Hub, error) {
		h, err := newHub(b)
		if err == nil {
			o(h)
		}
		return h, err
	}
}

// In a bubble and outside: whatever does not need time works the same.
func both(t *testing.T, test func(t *testing.T)) {
	t.Run("in a bubble", func(t *testing.T) { synctest.Test(t, test) })
	t.Run("in real time", test)
}

func TestEventsReachTheClientsThatTheyAreFor(t *testing.T) {
	both(t, func(t *testing.T) {
		cluster := hubtest.NewCluster(t)
		a, b := cluster.Node(newHub), cluster.Node(newHub)
		ann, ben := a.Connect(auth{User: "ann"}), b.Connect(auth{User: "ben"})
		e := a.Hub.Emitter()
		for i, to := range []hub.Target{hub.User("ben"), hub.SocketID(ben.ID()), hub.Everyone} {
			if _, err := e.Emit(t.Context(), to, "n", i); err != nil {
				t.Fatal(err)
			}
			ben.Expect("n", i)
		}
		ann.Expect("n", 2)
		ann.RefuteAny()
	})
}

func TestTheHubAsksAndTheClientAnswers(t *testing.T) {
	both(t, func(t *testing.T) {
		answers := make(chan string, 1)
		node := hubtest.Start(t, with(func(h *hub.Hub) {
			h.Of("/").On("begin", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
				answer, err := s.EmitAck(ctx, "sure?", 1, 2)
				if err != nil {
					return err
				}
				var text string
				answer.Decode(0, &text)
				answers <- text
				return nil
			})
		}))
		ann := node.Connect(auth{User: "ann"})
		ann.Emit("begin")
		ann.Expect("sure?", 1, 2).Answer("yes")
		if got := <-answers; got != "yes" {
			t.Errorf("the hub got %q", got)
		}
		go func() { // ends with the answers
			for a := range node.Hub.Emitter().EmitAck(t.Context(), hub.Everyone, "sure?").All {
				answers <- fmt.Sprint(a.ID == ann.ID(), " ", a.Err)
			}
		}()
		ann.Expect("sure?").NoHandler()
		if got, want := <-answers, "true "+hub.ErrNoHandler.Error(); got != want {
			t.Errorf("the hub got %q, want %q", got, want)
		}
	})
}

func TestBinaryArrivesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, with(func(h *hub.Hub) {
			h.Of("/").On("echo", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
				return errors.Join(s.Emit("echoed", m.Args()...), m.Ack(m.Args()...))
			})
		}))
		type picture struct {
			Name string
			Data hub.Binary
		}
		ann := node.Connect(auth{User: "ann"})
		sent := picture{"dot", hub.Binary{0, 1, 255}}
		ann.Call("echo", sent, []byte("raw"), "text").Expect(sent, []byte("raw"), "text")
		var got picture
		ann.Expect("echoed", &got, hub.Binary("raw"), "text")
		if got.Name != "dot" || !slices.Equal(got.Data, sent.Data) {
			t.Errorf("got %v", got)
		}
	})
}

func TestAConnectionHasSeveralNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, with(func(h *hub.Hub) {
			h.Of("/admin").On("hello", func(_ context.Context, s *hub.Socket, m *hub.Message) error { return m.Ack("hi") })
		}))
		ann := node.Connect(auth{User: "ann"})
		admin := ann.Of("/admin", nil)
		admin.Call("hello").Expect("hi")
		admin.Disconnect()
		admin.ExpectEnd(hub.ReasonClientDisconnect)
		ann.Call("say", line{Text: "still here"}).Expect(receipt{Length: 10})
		node.ExpectRefusalOf(hubtest.Handshake{Namespace: "/nowhere"}, "Invalid namespace")
	})
}

func TestTheHubSeesHowAClientGoes(t *testing.T) {
	for _, c := range []struct {
		name string
		go_  func(*hubtest.Client)
		want hub.Reason
	}{
		{"politely", (*hubtest.Client).Disconnect, hub.ReasonClientDisconnect},
		{"with its page", (*hubtest.Client).Close, hub.ReasonTransportClose},
		{"with its network", (*hubtest.Client).Vanish, hub.ReasonPingTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reasons := make(chan hub.Reason, 1)
				node := hubtest.Start(t, with(func(h *hub.Hub) {
					h.Of("/").OnDisconnect(func(_ *hub.Socket, r hub.Reason) { reasons <- r })
				}))
				c.go_(node.Connect(auth{User: "ann"}))
				if got := <-reasons; got != c.want {
					t.Errorf("the hub saw %q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestAStuckClientIsCutOffOrLosesWhatItsPolicySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, newHub)
		e := node.Hub.Emitter()
		emit := func(e *hub.Emitter, n int) {
			if _, err := e.Emit(t.Context(), hub.Everyone, "n", n, strings.Repeat("x", 400)); err != nil {
				t.Fatal(err)
			}
		}
		ann := node.Dial(hubtest.Handshake{Auth: auth{User: "ann"}, QueueBytes: 1000})
		ann.StopReading()
		for n := range 4 {
			emit(e.Overflow(hub.DropOldest), n)
		}
		emit(e.Overflow(hub.DropNewest), 4)
		emit(e.Volatile(), 5)
		ann.Refute("n")
		ann.ReadAgain()
		var got []int
		for range 2 {
			var n int
			ann.Next().Decode(0, &n)
			got = append(got, n)
		}
		if want := []int{3, 4}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		ann.StopReading()
		emit(e.Latest("price"), 6)
		emit(e.Latest("price"), 7)
		emit(e, 8)
		ann.ReadAgain()
		ann.Refute("n", 6, strings.Repeat("x", 400))
		ann.Expect("n", 7, strings.Repeat("x", 400))
		ann.StopReading()
		for n := range 3 {
			emit(e, n)
		}
		ann.ExpectEnd(hub.ReasonServerClose)
	})
}

func TestADrainTellsTheClientsAndTakesNoTime(t *testing.T) {
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, newHub)
		var clients []*hubtest.Client
		for i := range 100 {
			clients = append(clients, node.Connect(auth{User: fmt.Sprint(i)}))
		}
		node.Drain()
		for _, c := range clients {
			c.ExpectEnd(hub.ReasonShutdown)
		}
	})
	if took := time.Since(began); took > hubtest.Patience {
		t.Errorf("it took %v", took)
	}
}

func TestALostNodeIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := hubtest.NewCluster(t)
		node, other := cluster.Node(newHub), cluster.Node(newHub)
		ann := node.Connect(auth{User: "ann"})
		node.Kill()
		ann.ExpectEnd(hub.ReasonTransportError)
		if got, err := other.Hub.Emitter().Emit(t.Context(), hub.User("ann"), "n"); err != nil || !got.Nobody() {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestASilentBrokerIsNoticedAndLeavesAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gaps := make(chan broker.Gap, 4)
		setup := func(b broker.Broker) (*hub.Hub, error) {
			return hub.New(b, hub.Options{OnGap: func(g broker.Gap) { gaps <- g }})
		}
		cluster := hubtest.NewCluster(t)
		node, other := cluster.Node(setup), cluster.Node(setup)
		client := node.Connect(nil)
		node.Silence()
		began := time.Now()
		if _, err := node.Hub.Emitter().Emit(t.Context(), hub.Everyone, "n"); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("emit of a silent node: %v", err)
		}
		time.Sleep(5 * time.Second)
		if err := node.Hub.Ready(); err == nil {
			t.Error("a silent node is ready")
		}
		if got, err := other.Hub.Emitter().Emit(t.Context(), hub.SocketID(client.ID()), "n"); err != nil || !got.Nobody() {
			t.Errorf("a silent node is counted: %v, %v", got, err)
		}
		node.Heal()
		if g := <-gaps; g.From.After(began) {
			t.Errorf("the gap begins at %v, after %v", g.From, began)
		}
		if _, err := other.Hub.Emitter().Emit(t.Context(), hub.Everyone, "back"); err != nil {
			t.Fatal(err)
		}
		client.Expect("back")

		node.Cut()
		<-gaps
		cluster.StopBroker()
		if _, err := node.Hub.Emitter().Emit(t.Context(), hub.Everyone, "n"); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("emit without a broker: %v", err)
		}
		cluster.StartBroker()
	})
}

// failure is what a test says that fails.
type failure struct {
	testing.TB
	text []string
}

func (f *failure) Helper() {}
func (f *failure) Fatalf(format string, args ...any) {
	f.text = append(f.text, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// failing returns what a test says that has to fail.
func failing(t *testing.T, test func(t testing.TB)) string {
	t.Helper()
	f := &failure{TB: t}
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		test(f)
	}()
	<-done
	if len(f.text) == 0 {
		t.Fatal("the test does not fail")
	}
	return strings.Join(f.text, "\n")
}

func TestFailuresSayWhatCameInstead(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(node *hubtest.Node, ann, ben *hubtest.Client)
		want string
	}{
		{"another value", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Call("say", line{Text: "helo"})
			ben.Expect("said", line{From: "ann", Text: "hello"})
		}, `hubtest: no event said({"from":"ann","text":"hello"}) came within 5s
  came said({"from":"ann","text":"helo"})
       .text want "hello", got "helo"`},
		{"a field too many", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Call("say", line{Text: "hello"})
			ben.Expect("said", map[string]any{"text": "hello"})
		}, `hubtest: no event said({"text":"hello"}) came within 5s
  came said({"from":"ann","text":"hello"})
       .from was not wanted, got "ann"`},
		{"another number of arguments", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Call("say", line{Text: "hello"})
			ben.Expect("said", line{From: "ann", Text: "hello"}, 2)
		}, `hubtest: no event said({"from":"ann","text":"hello"}, 2) came within 5s
  came said({"from":"ann","text":"hello"})
       1 arguments, want 2`},
		{"another event", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Call("say", line{Text: "hello"})
			ben.Expect("left")
		}, `hubtest: no event left came within 5s
  came said({"from":"ann","text":"hello"})`},
		{"nothing", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ben.Close()
			ben.Expect("said")
		}, `hubtest: no event said came within 5s; the client has ended: transport close
  nothing came`},
		{"what was refuted", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Emit("say", line{Text: "hello"})
			ben.Refute("said")
		}, `hubtest: said({"from":"ann","text":"hello"}) came, and was not to come`},
		{"anything", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Emit("say", line{Text: "hello"})
			ben.RefuteAny()
		}, `hubtest: nothing more was to come
  came said({"from":"ann","text":"hello"})`},
		{"another answer", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Call("say", line{Text: "hello"}).Expect(receipt{Length: 4})
		}, `hubtest: the answer to "say" is another
  want ({"length":4})
  got  ({"length":5})
       .length want 4, got 5
`},
		{"an answer instead of a refusal", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Call("say", line{Text: "hello"}).ExpectRefusal("say something")
		}, `hubtest: the call of "say" was not refused with "say something", but answered: ({"length":5})`},
		{"another refusal", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ann.Call("say", line{}).ExpectRefusal("no")
		}, `hubtest: the call of "say" was refused in other words:
  want no
  got  say something`},
		{"a client that is let in", func(node *hubtest.Node, ann, ben *hubtest.Client) {
			node.ExpectRefusal(auth{User: "cat"}, "go away")
		}, `hubtest: the client was let in, and was to be refused with "go away"`},
		{"a client that is refused", func(node *hubtest.Node, ann, ben *hubtest.Client) {
			node.Connect(auth{})
		}, `hubtest: the client was refused: {"message":"who are you?"}`},
		{"another end", func(_ *hubtest.Node, ann, ben *hubtest.Client) {
			ben.Close()
			ben.ExpectEnd(hub.ReasonShutdown)
		}, `hubtest: the client ended for another reason
  want server shutting down
  got  transport close`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := failing(t, func(t testing.TB) {
					node := hubtest.Start(t, newHub)
					c.test(node, node.Connect(auth{User: "ann"}), node.Connect(auth{User: "ben"}))
				})
				if got != c.want {
					t.Errorf("the test says:\n%s\nwant:\n%s", got, c.want)
				}
			})
		})
	}
}
