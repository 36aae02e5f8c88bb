package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
)

const key = "a key for tests only"

func TestWhatItDependsOn(t *testing.T) {
	deptest.OnHub(t, "tether/webhook", "tether/presence")
}

// endpoint is the other program.
type endpoint struct {
	t *testing.T

	mu     sync.Mutex
	away   bool     // guarded by mu
	deaf   bool     // guarded by mu; it takes events, and its answer is lost
	bodies [][]byte // guarded by mu; as they came
	events []Event  // guarded by mu; that it has seen, each ID once
	seen   map[string]int
}

func newEndpoint(t *testing.T) *endpoint { return &endpoint{t: t, seen: make(map[string]int)} }

func (e *endpoint) set(away, deaf bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.away, e.deaf = away, deaf
}

// RoundTrip implements http.RoundTripper.
func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.away {
		return nil, errors.New("connection refused")
	}
	if err := Verify(key, r.Header.Get(SignatureHeader), body, 0); err != nil {
		e.t.Errorf("%v: %s %s", err, r.Header.Get(SignatureHeader), body)
	}
	var in struct{ Events []Event }
	if err := json.Unmarshal(body, &in); err != nil {
		e.t.Error(err)
	}
	e.bodies = append(e.bodies, body)
	for _, one := range in.Events {
		if e.seen[one.ID]++; e.seen[one.ID] == 1 {
			e.events = append(e.events, one)
		}
	}
	answer := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(""))}
	if e.deaf {
		answer.StatusCode = http.StatusBadGateway
	}
	return answer, nil
}

// told is what it has been told of a socket or a user.
func (e *endpoint) told(of string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, one := range e.events {
		if one.Socket == of || one.Socket == "" && one.User == of {
			b.WriteString(one.Type + " ")
		}
	}
	return strings.TrimSpace(b.String())
}

// reasons are those of the events of a type.
func (e *endpoint) reasons(of string) (all []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.events {
		if one.Type == of {
			all = append(all, one.Reason)
		}
	}
	return all
}

func options(e http.RoundTripper) Options {
	return Options{
		URL: "https://user:secret@app.example.com/hooks", Keys: []string{"another key that signs too", key},
		Client: &http.Client{Transport: e}, Logger: slog.New(slog.DiscardHandler),
	}
}

func setup(e *endpoint, grace time.Duration) hubtest.Setup {
	return recovering(e, grace, hub.Recovery{})
}

func recovering(e http.RoundTripper, grace time.Duration, r hub.Recovery) hubtest.Setup {
	return func(b broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(b, hub.Options{Greeting: hub.Greeting{Off: true}, Recovery: r})
		if err != nil {
			return nil, err
		}
		o := options(e)
		o.Grace = grace
		h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "42") })
		_, err = New(h, o)
		return h, err
	}
}

// cable is the way of one node to the other program.
type cable struct {
	http.RoundTripper
	cut atomic.Bool
}

func (c *cable) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.cut.Load() {
		return nil, errors.New("no route to host")
	}
	return c.RoundTripper.RoundTrip(r)
}

func TestEachSocketAndEachUserAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t)
		c := hubtest.NewCluster(t)
		a, b := c.Node(setup(e, -1)), c.Node(setup(e, -1))
		time.Sleep(10 * time.Second) // until each owner knows that it is one
		phone, laptop := a.Connect(nil), b.Connect(nil)
		time.Sleep(2 * time.Second)
		phone.Close()
		time.Sleep(time.Second)
		laptop.Close()
		time.Sleep(2 * time.Second)
		for of, want := range map[string]string{phone.ID(): "connect disconnect", laptop.ID(): "connect disconnect", "user:42": "online offline"} {
			if got := e.told(of); got != want {
				t.Errorf("%s: told %q, want %q", of, got, want)
			}
		}
	})
}

// TestANodeThatCrashesIsToldToo: whatever it was about to tell itself.
func TestANodeThatCrashesIsToldToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t)
		c := hubtest.NewCluster(t)
		nodes := []*hubtest.Node{c.Node(setup(e, -1)), c.Node(setup(e, -1)), c.Node(setup(e, -1))}
		time.Sleep(10 * time.Second) // until each owner knows that it is one
		e.set(false, true)           // nobody knows that they were taken
		var ids []string
		for _, n := range nodes {
			ids = append(ids, n.Connect(nil).ID())
		}
		time.Sleep(3 * time.Second)
		nodes[0].Kill()
		e.set(false, false)
		time.Sleep(2 * time.Minute)
		for i, id := range ids {
			want := "connect"
			if i == 0 {
				want = "connect disconnect"
			}
			if got := e.told(id); got != want {
				t.Errorf("socket of node %d: told %q, want %q", i, got, want)
			}
		}
		if got := e.told("user:42"); got != "online" {
			t.Errorf("the user: told %q", got)
		}
	})
}

// TestASessionThatWaits: with hub.Recovery each connection of a session is told, and its end if the client does not come back.
func TestASessionThatWaits(t *testing.T) {
	ask := map[string]any{"recovery": true}
	window := hub.Recovery{On: true, Window: time.Minute}
	begin := func(t *testing.T) (e *endpoint, c *hubtest.Cluster, a, b *hubtest.Node, unplug func()) {
		e, c = newEndpoint(t), hubtest.NewCluster(t)
		way := &cable{RoundTripper: e}
		a, b = c.Node(recovering(way, -1, window)), c.Node(recovering(e, -1, window))
		time.Sleep(10 * time.Second) // until each owner knows that it is one
		return e, c, a, b, func() { way.cut.Store(true) }
	}
	check := func(t *testing.T, e *endpoint, id, want string) {
		t.Helper()
		if got := e.told(id); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	t.Run("recovered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e, _, a, b, _ := begin(t)
			phone := a.Connect(ask)
			id := phone.ID()
			time.Sleep(time.Second)
			phone.Close()
			time.Sleep(20 * time.Second)
			check(t, e, id, "connect disconnect")
			if !phone.ComeBack(b) || phone.ID() != id {
				t.Fatalf("not recovered: ID %s, was %s", phone.ID(), id)
			}
			time.Sleep(time.Second)
			check(t, e, id, "connect disconnect connect")
			phone.Disconnect()
			time.Sleep(2 * time.Minute)
			check(t, e, id, "connect disconnect connect disconnect")
			check(t, e, "user:42", "online offline online offline")
		})
	})
	t.Run("expired", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e, _, a, _, _ := begin(t)
			phone := a.Connect(ask)
			id := phone.ID()
			time.Sleep(time.Second)
			phone.Close()
			time.Sleep(50 * time.Second)
			check(t, e, id, "connect disconnect")
			time.Sleep(time.Minute)
			check(t, e, id, "connect disconnect expired")
			for _, one := range e.events {
				if one.Type != Expired {
					continue
				}
				one.ID, one.Time = "", time.Time{}
				if want := (Event{Type: Expired, Namespace: "/", User: "user:42", Socket: id, Node: a.Hub.Node(), Reason: "expired"}); one != want {
					t.Errorf("told %+v, want %+v", one, want)
				}
			}
		})
	})
	t.Run("its node is killed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e, _, a, b, unplug := begin(t)
			phone := a.Connect(ask)
			id := phone.ID()
			time.Sleep(time.Second)
			phone.Close()
			time.Sleep(10 * time.Second)
			unplug() // what is left of it in this process cannot tell anybody
			a.Kill()
			time.Sleep(2 * time.Minute)
			check(t, e, id, "connect disconnect expired")
			if got, want := e.reasons(Expired), []string{"node lost"}; !slices.Equal(got, want) {
				t.Errorf("expired for the reasons %q, want %q", got, want)
			}
			if phone.ComeBack(b) || phone.ID() == id {
				t.Fatal("recovered from a node that is gone")
			}
			time.Sleep(10 * time.Second)
			check(t, e, id, "connect disconnect expired")
			check(t, e, phone.ID(), "connect")
		})
	})
	t.Run("its node ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e, _, a, _, _ := begin(t)
			phone := a.Connect(ask)
			id := phone.ID()
			time.Sleep(time.Second)
			phone.Close()
			time.Sleep(10 * time.Second)
			a.Drain()
			time.Sleep(time.Second)
			check(t, e, id, "connect disconnect expired")
		})
	})
	t.Run("its node ends, and there is the log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e, c := newEndpoint(t), hubtest.NewCluster(t)
			logged, bus := window, memory.NewLoggedBus(broker.LogOptions{Age: 5 * time.Minute})
			logged.Log = true
			node := func(broker.Broker) (*hub.Hub, error) { return recovering(e, -1, logged)(bus.Broker()) }
			a, b := c.Node(node), c.Node(node)
			time.Sleep(10 * time.Second)
			phone := a.Connect(ask)
			id := phone.ID()
			time.Sleep(time.Second)
			phone.Close()
			time.Sleep(10 * time.Second)
			a.Drain()
			time.Sleep(time.Second)
			if !phone.ComeBack(b) || phone.ID() != id {
				t.Fatalf("not recovered: ID %s, was %s", phone.ID(), id)
			}
			time.Sleep(time.Second)
			check(t, e, id, "connect disconnect expired connect")
			phone.Close()
			time.Sleep(2 * time.Minute)
			check(t, e, id, "connect disconnect expired connect disconnect expired")
			if got, want := e.reasons(Expired), []string{"node lost", "expired"}; !slices.Equal(got, want) {
				t.Errorf("expired for the reasons %q, want %q", got, want)
			}
		})
	})
}

// TestANodeIsKilledWhenItHasJustLostAClient: there is one disconnect all the same, and one end of the session, whichever node
// tells it, also if answers of the webhook are lost.
func TestANodeIsKilledWhenItHasJustLostAClient(t *testing.T) {
	window := hub.Recovery{On: true, Window: time.Minute}
	for _, after := range []time.Duration{-1, 0, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, c := newEndpoint(t), hubtest.NewCluster(t)
				way := &cable{RoundTripper: e}
				a := c.Node(recovering(way, -1, window))
				c.Node(recovering(e, -1, window))
				c.Node(recovering(e, -1, window))
				time.Sleep(10 * time.Second) // until each owner knows that it is one
				phone := a.Connect(map[string]any{"recovery": true})
				time.Sleep(time.Second)
				e.set(false, true)
				if after >= 0 { // else it is connected
					phone.Close()
					time.Sleep(after)
				}
				way.cut.Store(true)
				a.Kill()
				time.Sleep(3 * time.Second)
				e.set(false, false)
				time.Sleep(3 * time.Minute)
				if got := e.told(phone.ID()); got != "connect disconnect expired" {
					t.Errorf("told %q, want one connect, one disconnect and one end", got)
				}
				if why := e.reasons(Expired); !slices.Equal(why, []string{"node lost"}) {
					t.Errorf("expired for the reasons %q", why)
				}
				if why := e.reasons(Disconnect); after < 0 && !slices.Equal(why, []string{"node gone"}) {
					t.Errorf("disconnected for the reasons %q", why)
				}
			})
		})
	}
}

// run runs a sender, and returns what ends it.
func run(t *testing.T, o Options) (s *Sender, end func()) {
	t.Helper()
	s, err := newSender(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.last = ctx.Done()
	ended := make(chan struct{})
	go func() { // waited for by end
		defer close(ended)
		s.Run(ctx)
	}()
	return s, func() {
		cancel()
		<-ended
	}
}

func TestEventsGatherAndAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t)
		o := options(e)
		o.Batch = 3
		s, end := run(t, o)
		e.set(true, false)
		var wg sync.WaitGroup
		for i := range 7 {
			wg.Go(func() { s.deliver(context.Background(), Event{ID: fmt.Sprint(i)}) })
		}
		time.Sleep(5 * time.Minute)
		if got := s.Stats(); got.Waiting != 7 || got.Sent != 0 || got.Failed < 5 || got.Failed > 20 {
			t.Errorf("while it is away: %+v", got)
		}
		e.set(false, false)
		wg.Wait()
		if got := s.Stats(); got.Waiting != 0 || got.Sent != 7 || got.Dropped != 0 || len(e.bodies) != 3 {
			t.Errorf("afterwards: %+v in %d requests", got, len(e.bodies))
		}
		end()
	})
}

// TestOnlyOldEventsAreGivenUp: those that came later in the same batch are still sent.
func TestOnlyOldEventsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t)
		s, err := newSender(options(e))
		if err != nil {
			t.Fatal(err)
		}
		e.set(true, false)
		var batch []*waiting
		for _, age := range []time.Duration{14 * time.Minute, 0, 12 * time.Minute, 9 * time.Minute} {
			w := s.waiting(Event{ID: age.String(), Type: Online, User: "user:42"})
			w.since = w.since.Add(-age)
			batch = append(batch, w)
		}
		sent := make(chan struct{})
		go func() { // waited for below
			defer close(sent)
			s.send(context.Background(), batch)
		}()
		for _, step := range []struct {
			until   time.Duration
			dropped uint64
		}{{50 * time.Second, 0}, {125 * time.Second, 1}, {245 * time.Second, 2}} {
			time.Sleep(step.until - time.Since(batch[1].since))
			if got := s.Stats(); got.Dropped != step.dropped || got.Waiting != 4-int(step.dropped) {
				t.Errorf("after %v: %+v, want %d dropped", step.until, got, step.dropped)
			}
		}
		e.set(false, false)
		<-sent
		if got := s.Stats(); got.Sent != 2 || got.Dropped != 2 || got.Waiting != 0 {
			t.Errorf("at the end: %+v", got)
		}
		if len(e.events) != 2 || e.events[0].ID != "0s" || e.events[1].ID != "9m0s" {
			t.Errorf("told %+v, want the two young ones", e.events)
		}
	})
}

func TestWhatIsNotTakenIsGivenUpCountedAndLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(t)
		var log bytes.Buffer
		o := options(e)
		o.Patience, o.Logger = time.Minute, slog.New(slog.NewTextHandler(&log, nil))
		s, end := run(t, o)
		e.set(true, false)
		s.deliver(context.Background(), Event{ID: "late"})
		if got := s.Stats(); got.Dropped != 1 || got.Waiting != 0 {
			t.Errorf("%+v", got)
		}
		go s.deliver(context.Background(), Event{ID: "at the end"}) // until end
		synctest.Wait()
		began := time.Now()
		end()
		synctest.Wait()
		if got, took := s.Stats(), time.Since(began); got.Dropped != 2 || got.Waiting != 0 || took > 6*time.Second {
			t.Errorf("at the end: %+v after %v", got, took)
		}
		s.deliver(context.Background(), Event{ID: "after the end"})
		if got := s.Stats(); got.Dropped != 3 || got.Waiting != 0 {
			t.Errorf("after the end: %+v", got)
		}
		if text := log.String(); strings.Contains(text, "secret") || strings.Count(text, "events are lost") != 3 {
			t.Errorf("logged %s", text)
		}
	})
}

func TestASignatureIsThatOfTheBodyTheKeyAndTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := []byte(`{"events":[]}`)
		header := sign([]string{"the one before, which is old", key}, time.Now(), body)
		if err := Verify(key, header, body, 0); err != nil {
			t.Error(err)
		}
		for name, err := range map[string]error{
			"another body":   Verify(key, header, []byte(`{"events":[1]}`), 0),
			"another key":    Verify(key+"x", header, body, 0),
			"another time":   Verify(key, strings.Replace(header, "t=9", "t=8", 1), body, 0),
			"no signature":   Verify(key, "t=1", body, 0),
			"no header":      Verify(key, "", body, 0),
			"half a header":  Verify(key, header[:len(header)-2], body, 0),
			"no hexadecimal": Verify(key, "t=1,v1=x", body, 0),
		} {
			if !errors.Is(err, ErrSignature) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := Verify("", header, body, 0); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("without a key: %v", err)
		}
		time.Sleep(DefaultTolerance + 2*time.Second)
		if err := Verify(key, header, body, 0); !errors.Is(err, ErrSignature) {
			t.Errorf("an old one: %v", err)
		}
		if err := Verify(key, header, body, time.Hour); err != nil {
			t.Error(err)
		}
	})
}

func TestOptionsThatCannotBe(t *testing.T) {
	for _, o := range []Options{
		{}, {URL: "app.example.com", Keys: []string{key}}, {URL: "https://app.example.com"},
		{URL: "https://app.example.com", Keys: []string{"short"}}, {URL: "https://app.example.com", Keys: []string{key}, Batch: -1},
	} {
		if _, err := newSender(o); err == nil || !strings.HasPrefix(err.Error(), "webhook: ") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("t=1,v1=00", []byte("{}"))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		if Verify(key, header, body, time.Hour) == nil {
			t.Errorf("%q is taken for %q", header, body)
		}
	})
}
