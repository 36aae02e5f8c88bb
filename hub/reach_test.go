package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
)

// slow is a broker whose subscriptions take a while, as over a network.
type slow struct{ broker.Broker }

func (b slow) pause() {
	for range rand.N(200) {
		runtime.Gosched()
	}
}

func (b slow) Subscribe(ctx context.Context, subjects ...string) []error {
	b.pause()
	defer b.pause()
	return b.Broker.Subscribe(ctx, subjects...)
}

func (b slow) Unsubscribe(ctx context.Context, subjects ...string) []error {
	b.pause()
	defer b.pause()
	return b.Broker.Unsubscribe(ctx, subjects...)
}

// The instant a client sees the answer to its CONNECT, another node emits to it in every way.
func TestWhoKnowsThatItIsConnectedIsReached(t *testing.T) {
	t.Parallel()
	const clients = 10_000
	bus := memory.NewBus()
	h := start(t, slow{bus.Broker()}, Options{Greeting: Greeting{Off: true}})
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		var auth struct{ User string }
		if err := jsonOf(s, &auth); err != nil {
			return err
		}
		return s.Register(ctx, auth.User)
	})
	other := start(t, bus.Broker(), Options{}).Emitter()
	var lost atomic.Int64
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < clients; i += 8 {
				p := dial(t, h)
				user := strconv.Itoa(i)
				p.say(`0{"user":"` + user + `"}`)
				s := p.joined("/")
				to := []Target{User(user), Everyone, s.Target()}[i%3]
				event := "e" + user
				if r, err := other.Emit(t.Context(), to, event); err != nil || r.Nobody() {
					lost.Add(1)
				}
				for !strings.Contains(p.next(), event) {
				}
				p.end(ReasonTransportClose)
			}
		})
	}
	wg.Wait()
	if n := lost.Load(); n > 0 {
		t.Errorf("%d of %d events were lost", n, clients)
	}
	waitFor(t, func() bool { return h.Stats().Rooms == 0 }, "rooms are left when nobody is")
}

func jsonOf(s *Socket, v any) error {
	m := Message{args: [][]byte{s.Handshake().Auth}}
	return m.Decode(0, v)
}

func waitFor(t testing.TB, ok func() bool, complaint string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal(complaint)
		}
	}
}

// Two tabs of each user open and close all the time while others emit to it. A tab that is open
// misses nothing, gets nothing twice and nothing that is for another user.
func TestFlappingTabsMissNothingWhileTheyAreOpen(t *testing.T) {
	const users, rounds = 4, 200
	bus := memory.NewBus()
	hubs := []*Hub{
		start(t, slow{bus.Broker()}, Options{Greeting: Greeting{Off: true}}),
		start(t, slow{bus.Broker()}, Options{Greeting: Greeting{Off: true}}),
	}
	e := NewEmitter(bus.Broker(), EmitterOptions{})
	var tabs, wg sync.WaitGroup
	var stop atomic.Bool
	var emitted [users]atomic.Int64
	for u := range users {
		user := strconv.Itoa(u)
		wg.Go(func() {
			for n := int64(1); !stop.Load(); n++ {
				if _, err := e.Emit(context.Background(), User(user), "n", user, n); err != nil {
					t.Error(err)
				}
				emitted[u].Store(n) // by now it has been delivered, or the tab was not open
				runtime.Gosched()
			}
		})
		for range 2 {
			tabs.Go(func() {
				for range rounds {
					p := dialWith(t, hubs[rand.N(2)], newWireOf(1<<16))
					p.say("0")
					s := p.joined("/")
					if err := s.Register(t.Context(), user); err != nil {
						t.Error(err)
					}
					waitFor(t, func() bool { return s.gate.State() == stateConnected }, "not connected")
					from := emitted[u].Load() // all after the next are this tab's
					for range rand.N(300) {
						runtime.Gosched()
					}
					to := emitted[u].Load()
					p.end(ReasonTransportClose)
					checkSequence(t, p, user, from, to)
				}
			})
		}
	}
	tabs.Wait()
	stop.Store(true)
	wg.Wait()
	for _, h := range hubs {
		waitFor(t, func() bool { return h.Stats().Rooms == 0 }, "rooms are left when nobody is")
	}
	for u := range users {
		if r := mustEmit(t, e, User(strconv.Itoa(u)), "n"); !r.Nobody() {
			t.Errorf("a subscription is left: %v", r)
		}
	}
}

// checkSequence checks that p got ascending numbers, among them all from from+2 to to. Before that the
// tab was not registered: it may have got some that another tab of the user was there for.
func checkSequence(t *testing.T, p *peer, user string, from, to int64) {
	t.Helper()
	var last int64
	for len(p.packets) > 0 {
		text := p.next()
		head := `42["n","` + user + `",`
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(text, head), "]"), 10, 64)
		if err != nil {
			t.Errorf("tab of user %s got %s", user, text)
			return
		}
		if n <= last || n > from+2 && n != last+1 {
			t.Errorf("tab of user %s got %d after %d, open from %d to %d", user, n, last, from, to)
		}
		last = n
	}
	if to >= from+2 && last < to {
		t.Errorf("tab of user %s was open from %d to %d and got no more than %d", user, from, to, last)
	}
}

// Each of many emitters has an order, and each socket sees it.
func TestEventsOfOneEmitterArriveInOrder(t *testing.T) {
	hubs := several(t, 3, Options{})
	const emitters, events = 6, 500
	var peers []*peer
	for _, h := range hubs {
		p, s := connect(t, h)
		if err := s.Join(t.Context(), Room("room")); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, p)
	}
	var wg sync.WaitGroup
	for i := range emitters {
		wg.Go(func() {
			e := hubs[i%3].Emitter()
			for n := range events {
				if _, err := e.Emit(t.Context(), Room("room"), "e", i, n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, p := range peers {
		var next [emitters]int
		for range emitters * events {
			var i, n int
			if _, err := fmt.Sscanf(p.next(), `42["e",%d,%d]`, &i, &n); err != nil {
				t.Fatal(err)
			}
			if n != next[i] {
				t.Fatalf("event %d of emitter %d came where %d was due", n, i, next[i])
			}
			next[i]++
		}
		p.wantNothing()
	}
}

// Everything at once; the race detector looks on.
func TestEverythingAtOnce(t *testing.T) {
	hubs := several(t, 2, Options{Devices: Devices{Max: 3}})
	for _, h := range hubs {
		h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Join(ctx, Room("a"), Room("b")) })
		h.Of("/").On("x", func(ctx context.Context, s *Socket, m *Message) error {
			s.Leave(Room("a"))
			if err := s.Join(ctx, Room("c")); err != nil {
				return err
			}
			return m.Ack(m.Args()...)
		})
		h.Match(func(name string) bool { return name != "/no" }).OnDisconnect(func(*Socket, Reason) {})
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			h := hubs[worker%2]
			for i := range 60 {
				p := dial(t, h)
				p.client.Text([]byte("0"))
				p.client.Text([]byte("0/dyn"))
				p.client.Text([]byte(`20["x",1]`))
				select {
				case <-p.packets:
				case <-time.After(patience):
					t.Error("no answer")
				}
				if s := p.client.find("/"); s != nil {
					s.Register(t.Context(), strconv.Itoa(i%5))
					s.Emit("y", Binary("z"))
					if i%7 == 0 {
						s.Disconnect(i%2 == 0)
					}
				}
				h.Emitter().Except(Room("b")).EmitUnion(t.Context(), []Target{Room("a"), Room("c")}, "u")
				if i%11 == 0 {
					h.Emitter().Disconnect(t.Context(), Room("c"), true)
				}
				p.client.Text([]byte(`20["x",1]`))
				p.end(ReasonTransportClose)
				h.Stats()
			}
		})
	}
	wg.Wait()
	for _, h := range hubs {
		waitFor(t, func() bool { s := h.Stats(); return s.Rooms == 0 && s.Sockets == 0 && s.Connections == 0 }, "something is left")
		if n := h.Of("/").Len(); n != 0 {
			t.Errorf("%d sockets are counted when all are gone", n)
		}
		if got := h.Stats().Namespaces; got != 1 {
			t.Errorf("%d namespaces are left", got)
		}
	}
}
