package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/simbroker"
)

// recoveringNode is a node and its application.
type recoveringNode struct {
	w    *recoveringWorld
	name string
	peer *simbroker.Peer // nil in a run on the memory broker
	b    broker.Broker
	hub  *hub.Hub
	stop context.CancelFunc
	done chan struct{} // closed when Run has returned
	err  error         // of Run

	mu      sync.Mutex
	ending  bool                     // guarded by mu; it is told to, or dead
	dead    bool                     // guarded by mu
	reasons map[string]string        // guarded by mu; by ID: why a client did not get its session back
	owners  map[*hub.Socket]*account // guarded by mu
	links   []*link                  // guarded by mu
}

func (w *recoveringWorld) start() {
	n := &recoveringNode{
		w: w, name: fmt.Sprint("node-", len(w.nodes)), done: make(chan struct{}),
		reasons: make(map[string]string), owners: make(map[*hub.Socket]*account),
	}
	n.b, n.peer = w.open(n.name)
	var err error
	n.hub, err = hub.New(n.b, hub.Options{
		Node: n.name, Logger: slog.New(hearer{n}), DrainWindow: drainWindow, HookTimeout: hookTimeout,
		Greeting: hub.Greeting{Off: true}, Recovery: w.recovery,
		OnGap: func(g broker.Gap) {
			w.note("%s reports a gap from %v on", n.name, g.From.Sub(w.began))
			w.mu.Lock()
			defer w.mu.Unlock()
			w.gaps[n.name] = append(w.gaps[n.name], g)
		},
	})
	if err != nil {
		w.violate("New: %v", err)
		return
	}
	if w.calm {
		err = w.ends.attend(n)
	}
	if err != nil {
		w.violate("presence: %v", err)
		return
	}
	n.serve(n.hub.Of("/"))
	n.serve(n.hub.Of("/b"))
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	w.readers.Go(func() {
		defer close(n.done)
		n.err = n.hub.Run(ctx)
	})
	w.note("%s starts", n.name)
	w.nodes = append(w.nodes, n)
	w.mu.Lock()
	w.all = append(w.all, n)
	w.mu.Unlock()
}

// hearer reads in the log why clients do not get their sessions back.
type hearer struct{ n *recoveringNode }

func (h hearer) Enabled(context.Context, slog.Level) bool { return true }
func (h hearer) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h hearer) WithGroup(string) slog.Handler            { return h }

func (h hearer) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "a client does not get its session back" {
		return nil
	}
	var id, reason string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "socket":
			id = a.Value.String()
		case "reason":
			reason = a.Value.String()
		}
		return true
	})
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.n.reasons[id] = reason
	return nil
}

func (n *recoveringNode) isEnding() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ending
}

func (n *recoveringNode) isDead() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dead
}

func (n *recoveringNode) end(dead bool) {
	n.mu.Lock()
	n.ending, n.dead = true, n.dead || dead
	links := slices.Clone(n.links)
	n.mu.Unlock()
	if dead {
		for _, l := range links {
			l.breakOff()
		}
		if n.peer != nil {
			n.peer.Kill()
		} else {
			n.b.Close()
		}
	}
	n.stop()
}

// badgeOf is the data of a session's sockets.
type badgeOf struct {
	Client, Session int
}

// serve is the application.
func (n *recoveringNode) serve(ns *hub.Namespace) {
	ns.OnConnect(func(ctx context.Context, s *hub.Socket) error { return n.admit(ctx, s) })
	ns.OnUnrecovered(func(s *hub.Socket, r hub.Reason) {
		n.mu.Lock()
		a := n.owners[s]
		n.mu.Unlock()
		if a != nil && !n.isDead() {
			a.unrecovered(n, r)
		}
	})
	handle := func(event string, f func(ctx context.Context, s *hub.Socket, a *account, arg string)) {
		ns.On(event, func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
			var arg string
			n.mu.Lock()
			a := n.owners[s]
			n.mu.Unlock()
			if err := m.Decode(0, &arg); err != nil || a == nil {
				return err
			}
			f(ctx, s, a, arg)
			return nil
		})
	}
	handle("join", func(ctx context.Context, s *hub.Socket, a *account, room string) {
		stay := a.ask(room)
		a.joined(stay, s.Join(ctx, target(room)) == nil)
	})
	handle("leave", func(_ context.Context, s *hub.Socket, a *account, room string) {
		a.leave(room)
		s.Leave(target(room))
		a.left(room, s.Connected())
	})
	handle("poke", func(_ context.Context, s *hub.Socket, a *account, _ string) {
		p := posting{w: n.w, by: n.name + "'s socket", namespace: a.namespace, to: []string{a.sid}, socket: s, size: 40}
		n.w.jobs.Go(func() { // now, and when it may have gone to another node
			for range 6 {
				p.emit()
				time.Sleep(3 * time.Millisecond)
			}
		})
	})
}

// admit is the connect hook.
func (n *recoveringNode) admit(ctx context.Context, s *hub.Socket) error {
	var c credentials
	if err := json.Unmarshal(s.Handshake().Auth, &c); err != nil {
		return err
	}
	if c.Client < 0 { // somebody with a forged session
		if s.Recovered() {
			n.w.violate("what is forged is recovered")
		}
		return nil
	}
	var a *account
	if s.Recovered() {
		if a = c.of(n.w).accountOf(s.ID()); a == nil {
			n.w.violate("client %d has no session, and is recovered", c.Client)
			return nil
		}
		a.cameBack(n, s)
	} else {
		a = c.of(n.w).begin(s)
	}
	n.mu.Lock()
	n.owners[s] = a
	n.mu.Unlock()
	if err := wait(ctx, c.Pause); err != nil {
		return err
	}
	if n.w.bannedSince(c.User).n != 0 {
		a.kicking()
		return hub.Refuse("no", nil)
	}
	if !s.Recovered() || c.Again {
		if err := s.Register(ctx, c.User); err != nil {
			return err
		}
	}
	if !s.Recovered() {
		for _, room := range c.Rooms {
			if err := s.Join(ctx, target(room)); err != nil {
				return err
			}
		}
	}
	return nil
}
