package conformance

import (
	"context"
	"fmt"
	"slices"

	"tether/hub"
)

func installRooms(ns *hub.Namespace) {
	ns.On("join", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		room, err := roomAt(m, 0)
		if err != nil {
			return err
		}
		if err := s.Join(ctx, room); err != nil {
			return m.Ack(err.Error())
		}
		return m.Ack("ok")
	})
	ns.On("leave", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		room, err := roomAt(m, 0)
		if err != nil {
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
	var err error
	if skip > 0 {
		if to, err = roomAt(m, 0); err != nil {
			return err
		}
	}
	event, args, err := forwarded(m, skip)
	if err != nil {
		return err
	}
	_, err = e.Emit(ctx, to, event, args...)
	return forwarding(err)
}

// errNameless is what comes of a room without a name: it would be everyone, which is not a client's to choose.
var errNameless = fmt.Errorf("%w: a room has a name", hub.ErrArgs)

// roomAt reads argument i of m, a room.
func roomAt(m *hub.Message, i int) (hub.Room, error) {
	var room hub.Room
	err := m.Decode(i, &room)
	if err == nil && room == hub.Everyone {
		err = errNameless
	}
	return room, err
}

// roomList reads the first argument of m, a room or a list of rooms.
func roomList(m *hub.Message) ([]hub.Room, error) {
	var list []hub.Room
	if one, err := roomAt(m, 0); err == nil {
		list = []hub.Room{one}
	} else if err := m.Decode(0, &list); err != nil {
		return nil, err
	}
	if slices.Contains(list, hub.Everyone) {
		return nil, errNameless
	}
	return list, nil
}
