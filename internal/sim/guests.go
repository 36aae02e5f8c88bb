package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tether/hub"
)

// guests are what a node's application knows of its sockets, by client.
type guests struct {
	mu      sync.Mutex
	sockets map[int]*hub.Socket // guarded by mu; of clients whose connect hooks have begun
	numbers map[*hub.Socket]int // guarded by mu; the reverse
	inside  map[int]bool        // guarded by mu; a handler of the client's events runs
	asking  map[int]int         // guarded by mu; answers that are awaited from it
	over    map[int]*over       // guarded by mu; clients whose disconnect hook has run
}

// over is what a disconnect hook was told.
type over struct {
	times  int
	reason hub.Reason
	rooms  []string
}

func (g *guests) come(n int, s *hub.Socket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sockets == nil {
		g.sockets, g.numbers = make(map[int]*hub.Socket), make(map[*hub.Socket]int)
		g.inside, g.asking, g.over = make(map[int]bool), make(map[int]int), make(map[int]*over)
	}
	g.sockets[n], g.numbers[s] = s, n
}

func (g *guests) socket(n int) *hub.Socket {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sockets[n]
}

func (g *guests) number(s *hub.Socket) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.numbers[s]
}

func (g *guests) ended(n int) (o over, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over[n] == nil {
		return o, false
	}
	return *g.over[n], true
}

// unfinished says what still runs, or has not run, although there are no connections any more.
func (g *guests) unfinished() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, s := range g.sockets {
		if g.inside[n] {
			return fmt.Sprintf("a handler of client %d still runs", n)
		}
		if s.Connected() {
			return fmt.Sprintf("client %d is connected", n)
		}
	}
	return ""
}

// enter notes that a handler of the client's events runs, one at a time, and none after its end.
func (g *guests) enter(w *world, s *hub.Socket) (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.numbers[s]
	if g.inside[n] {
		w.violate("client %d: two handlers run at the same time", n)
	}
	if g.over[n] != nil {
		w.violate("client %d: an event is handled after the disconnect hook", n)
	}
	g.inside[n] = true
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.inside[n] = false
	}
}

func (g *guests) leave(w *world, s *hub.Socket, reason hub.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.numbers[s]
	if g.inside[n] {
		w.violate("client %d: the disconnect hook runs beside a handler", n)
	}
	o := g.over[n]
	if o == nil {
		o = new(over)
		g.over[n] = o
	}
	o.times++
	o.reason = reason
	for _, r := range s.Rooms() {
		if r != s.Target() && !isGathering(r) {
			o.rooms = append(o.rooms, roomOf(r))
		}
	}
	if s.Connected() {
		w.violate("client %d: is connected in its disconnect hook", n)
	}
}

// count counts an answer that is awaited, or with -1 no longer is, and returns how many there are.
func (g *guests) count(n, by int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asking[n] += by
	return g.asking[n]
}

// serve gives a namespace what the clients expect.
func (n *node) serve(ns *hub.Namespace) {
	ns.OnConnect(n.admit)
	ns.OnDisconnect(func(s *hub.Socket, r hub.Reason) { n.guests.leave(n.w, s, r) })
	n.serveRooms(ns)
	n.on(ns, "echo", func(ctx context.Context, _ *hub.Socket, m *hub.Message) (any, error) {
		var d time.Duration
		if err := m.Decode(0, &d); err != nil {
			return nil, err
		}
		return d, wait(ctx, d)
	})
	n.on(ns, "blob", func(_ context.Context, _ *hub.Socket, m *hub.Message) (any, error) {
		var b []byte
		err := m.Decode(0, &b)
		return hub.Binary(b), err
	})
	n.on(ns, "expire", func(_ context.Context, s *hub.Socket, m *hub.Message) (any, error) {
		var d time.Duration
		if err := m.Decode(0, &d); err != nil {
			return nil, err
		}
		var at time.Time
		if d != 0 {
			at = n.clock.now().Add(d)
		}
		n.expiry.set(n.guests.number(s), at)
		s.ExpireAt(at)
		return "ok", nil
	})
}

// serveRooms lets clients join rooms and leave them.
func (n *node) serveRooms(ns *hub.Namespace) {
	n.on(ns, "join", func(ctx context.Context, s *hub.Socket, m *hub.Message) (any, error) {
		var room string
		if err := m.Decode(0, &room); err != nil {
			return nil, err
		}
		return "ok", s.Join(ctx, target(room))
	})
	n.on(ns, "leave", func(_ context.Context, s *hub.Socket, m *hub.Message) (any, error) {
		var room string
		err := m.Decode(0, &room)
		s.Leave(target(room))
		return "ok", err
	})
	n.on(ns, "many", func(ctx context.Context, s *hub.Socket, m *hub.Message) (any, error) {
		var of [2]int
		if err := m.Decode(0, &of); err != nil {
			return nil, err
		}
		var rooms []hub.Target
		for i := of[0]; i < of[0]+of[1]; i++ {
			rooms = append(rooms, target(manyRoom(i)))
		}
		return "ok", s.Join(ctx, rooms...)
	})
}

// on answers an event with what f returns, or with "failed".
func (n *node) on(ns *hub.Namespace, event string, f func(ctx context.Context, s *hub.Socket, m *hub.Message) (any, error)) {
	ns.On(event, func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		leave := n.guests.enter(n.w, s)
		answer, err := f(ctx, s, m)
		leave()
		if err != nil {
			answer = "failed"
		}
		return m.Ack(answer)
	})
}

// admit is the connect hook.
func (n *node) admit(ctx context.Context, s *hub.Socket) error {
	var a auth
	if err := json.Unmarshal(s.Handshake().Auth, &a); err != nil {
		return err
	}
	n.guests.come(a.N, s)
	if s.Connected() {
		n.w.violate("client %d: is connected in its connect hook", a.N)
	}
	if a.Expire != 0 {
		at := n.clock.now().Add(a.Expire)
		n.expiry.set(a.N, at)
		s.ExpireAt(at)
	}
	if err := wait(ctx, a.Pause); err != nil {
		return err
	}
	if a.Refuse {
		return hub.Refuse("no", nil)
	}
	if err := s.Register(ctx, a.User); err != nil {
		return err
	}
	if users := s.Users(); !slices.Equal(users, []hub.Target{hub.User(a.User)}) {
		n.w.violate("client %d: registered as %q, is %q", a.N, a.User, users)
	}
	for _, r := range a.Rooms {
		if err := s.Join(ctx, target(r)); err != nil {
			return err
		}
	}
	if a.Emit {
		if err := s.Emit("mine", a.User); err != nil && !errors.Is(err, hub.ErrDisconnected) {
			return err
		}
	}
	return wait(ctx, a.Linger)
}
