package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tether/hub"
)

func installRooms(ns *hub.Namespace) {
	ns.On("join", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		room, err := roomAt(m, 0)
		if err != nil {
			return err
		}
		if err := s.Join(ctx, own(s, room)); err != nil {
			return m.Ack(err.Error())
		}
		return m.Ack("ok")
	})
	ns.On("leave", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		room, err := roomAt(m, 0)
		if err != nil {
			return err
		}
		s.Leave(own(s, room))
		return m.Ack("ok")
	})
	ns.On("rooms", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		var names []string
		for _, t := range s.Rooms() {
			names = append(names, nameOf(t))
		}
		slices.Sort(names)
		return m.Ack(names)
	})

	ns.On("to-room", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		rooms, err := roomList(m)
		if err != nil {
			return err
		}
		event, args, err := forwarded(m, 1)
		if err != nil {
			return err
		}
		_, err = ns.Emitter().EmitUnion(ctx, rooms, event, args...)
		return forwarding(err)
	})
	ns.On("to-others", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		return forward(ctx, s.Broadcast(), m, 1)
	})
	ns.On("to-except", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		except, err := roomAt(m, 1)
		if err != nil {
			return err
		}
		return forward(ctx, ns.Emitter().Except(targets(except)...), m, 2)
	})
	ns.On("broadcast", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		return forward(ctx, s.Broadcast(), m, 0)
	})
	ns.On("all", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		return forward(ctx, ns.Emitter(), m, 0)
	})
}

// forward emits the event that stands in m after skip arguments, to the room that is the first of
// these, or to everyone if skip is 0.
func forward(ctx context.Context, e *hub.Emitter, m *hub.Message, skip int) error {
	to := []hub.Target{hub.Everyone}
	if skip > 0 {
		room, err := roomAt(m, 0)
		if err != nil {
			return err
		}
		to = targets(room)
	}
	event, args, err := forwarded(m, skip)
	if err != nil {
		return err
	}
	_, err = e.EmitUnion(ctx, to, event, args...)
	return forwarding(err)
}

// targets are whom a text may mean that a client sends for a room. To the reference server the ID of a
// socket is a room, and the tests of clients know users by the rooms that they are there.
func targets(room string) []hub.Target {
	to := []hub.Target{hub.Room(room)}
	if s := hub.SocketID(room); s != (hub.Target{}) {
		to = append(to, s)
	}
	if id, ok := strings.CutPrefix(room, "user:"); ok && id != "" {
		to = append(to, hub.User(id))
	}
	return to
}

// own is the room that a socket joins or leaves. The one that has its ID it is always in.
func own(s *hub.Socket, room string) hub.Target {
	if to := hub.SocketID(room); to == s.Target() {
		return to
	}
	return hub.Room(room)
}

// nameOf is the text for a target.
func nameOf(t hub.Target) string {
	if t == hub.Room(t.Name()) || t == hub.SocketID(t.Name()) {
		return t.Name()
	}
	return t.String()
}

// errNameless is what comes of a room without a name.
var errNameless = fmt.Errorf("%w: a room has a name", hub.ErrArgs)

// roomAt reads argument i of m, the name of a room.
func roomAt(m *hub.Message, i int) (string, error) {
	var room string
	err := m.Decode(i, &room)
	if err == nil && room == "" {
		err = errNameless
	}
	return room, err
}

// roomList reads the first argument of m, a room or a list of rooms.
func roomList(m *hub.Message) (to []hub.Target, err error) {
	var list []string
	if one, err := roomAt(m, 0); err == nil {
		list = []string{one}
	} else if err := m.Decode(0, &list); err != nil {
		return nil, err
	}
	for _, room := range list {
		if room == "" {
			return nil, errNameless
		}
		to = append(to, targets(room)...)
	}
	return to, nil
}
