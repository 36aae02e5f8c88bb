package conformance

import (
	"context"
	"encoding/json"
	"slices"

	"tether/hub"
)

func installRooms(ns *hub.Namespace) {
	ns.On("join", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		var room hub.Room
		if err := m.Decode(0, &room); err != nil {
			return err
		}
		if err := s.Join(ctx, room); err != nil {
			return m.Ack(err.Error())
		}
		return m.Ack("ok")
	})
	ns.On("leave", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		var room hub.Room
		if err := m.Decode(0, &room); err != nil {
			return err
		}
		s.Leave(room)
		return m.Ack("ok")
	})
	ns.On("rooms", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		rooms := s.Rooms()
		slices.Sort(rooms)
		return m.Ack(rooms)
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
		return err
	})
	ns.On("to-others", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		return forward(ctx, s.Broadcast(), m, 1)
	})
	ns.On("to-except", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		var except hub.Room
		if err := m.Decode(1, &except); err != nil {
			return err
		}
		return forward(ctx, ns.Emitter().Except(except), m, 2)
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
	to := hub.Everyone
	if skip > 0 {
		if err := m.Decode(0, &to); err != nil {
			return err
		}
	}
	event, args, err := forwarded(m, skip)
	if err != nil {
		return err
	}
	_, err = e.Emit(ctx, to, event, args...)
	return err
}

// roomList reads the first argument of m, a room or a list of rooms.
func roomList(m *hub.Message) ([]hub.Room, error) {
	var one hub.Room
	if m.Len() > 0 && json.Unmarshal(m.Raw(0), &one) == nil {
		return []hub.Room{one}, nil
	}
	var list []hub.Room
	err := m.Decode(0, &list)
	return list, err
}
