package main

import (
	"context"
	"slices"
	"time"

	"tether/broker"
	"tether/event"
	"tether/hub"
	"tether/presence"
)

// What clients ask for, and what they get to see.
var (
	join  = event.NewCall[joinRequest, joinAnswer]("join").Strict()
	leave = event.New[string]("leave")
	types = event.New[typing]("typing")
	say   = event.New[line]("say")
	said  = event.New[line]("said")
	came  = event.New[line]("came")
	left  = event.New[line]("left")
)

type joinRequest struct {
	Room string `json:"room"`
	Name string `json:"name"`
}

// Validate is called before the handler.
func (r joinRequest) Validate() error {
	if r.Room == "" || len(r.Room) > maxName || r.Name == "" || len(r.Name) > maxName {
		return hub.Refuse("a room and a name, of 64 bytes at most", nil)
	}
	return nil
}

type joinAnswer struct {
	Rooms []string `json:"rooms"` // that this client is in now
}

// typing says that somebody has begun to type in a room, or has ended.
type typing struct {
	Room   string `json:"room"`
	Typing bool   `json:"typing"`
}

// state is what the people in a room see of each other.
type state struct {
	Typing bool `json:"typing,omitempty"`
}

// line is a line of a room's conversation.
type line struct {
	Room string `json:"room"`
	Name string `json:"name"`
	Text string `json:"text,omitempty"`
}

const (
	maxName = 64   // bytes
	maxText = 2000 // bytes
)

// rooms is the rooms of a socket by the names that clients know.
func rooms(s *hub.Socket) []string {
	var names []string
	for _, t := range s.Rooms() {
		if name := t.Name(); t == hub.Room(name) { // and not the socket itself
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// nameOf is the name under which a socket talks.
func nameOf(s *hub.Socket) string {
	name, _ := s.Data().(string)
	return name
}

// newHub is the chat on a broker: Redis when it is served, one in memory when it is tested.
func newHub(b broker.Broker, o hub.Options) (*hub.Hub, error) {
	h, err := hub.New(b, o)
	if err != nil {
		return nil, err
	}
	// A reload of the page is over within the grace. What is typed is to be seen soon.
	p, err := presence.New(h, presence.Options{Grace: 3 * time.Second, RoomInterval: 200 * time.Millisecond, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	installChat(h.Of("/"), p)
	return h, nil
}

func installChat(ns *hub.Namespace, p *presence.Presence) {
	join.Handle(ns, func(ctx context.Context, s *hub.Socket, req joinRequest) (joinAnswer, error) {
		s.SetData(req.Name)
		room := hub.Room(req.Room)
		if err := p.Enter(ctx, s, room, req.Name, state{}); err != nil {
			return joinAnswer{}, err
		}
		if err := p.WatchRoom(ctx, s, room); err != nil {
			return joinAnswer{}, err
		}
		_, err := came.Emit(ctx, ns.Emitter(), hub.Room(req.Room), line{Room: req.Room, Name: req.Name})
		return joinAnswer{rooms(s)}, err
	})

	leave.Handle(ns, func(ctx context.Context, s *hub.Socket, name string) error {
		if !slices.Contains(rooms(s), name) {
			return nil
		}
		s.Leave(hub.Room(name))
		p.UnwatchRoom(s, hub.Room(name))
		_, err := left.Emit(ctx, ns.Emitter(), hub.Room(name), line{Room: name, Name: nameOf(s)})
		return err
	})

	say.Handle(ns, func(ctx context.Context, s *hub.Socket, l line) error {
		if !slices.Contains(rooms(s), l.Room) || len(l.Text) > maxText {
			return nil // only members of a room may speak there
		}
		l.Name = nameOf(s) // whatever the client claims
		_, err := said.Emit(ctx, ns.Emitter(), hub.Room(l.Room), l)
		return err
	})

	types.Handle(ns, func(ctx context.Context, s *hub.Socket, t typing) error {
		if !slices.Contains(rooms(s), t.Room) {
			return nil
		}
		return p.Enter(ctx, s, hub.Room(t.Room), nameOf(s), state{t.Typing})
	})

	// The rooms are still known here; the socket leaves them by itself.
	ns.OnDisconnect(func(s *hub.Socket, _ hub.Reason) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		for _, name := range rooms(s) {
			left.Emit(ctx, ns.Emitter(), hub.Room(name), line{Room: name, Name: nameOf(s)})
		}
	})
}
