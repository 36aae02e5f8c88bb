package hub

import (
	"context"
	"errors"
	"slices"

	"tether/engine"
	"tether/internal/socketio"
)

// Register makes the socket one of a user's: it joins the room User(userID) and is greeted, see
// Options.Greeting. It returns once everything that is emitted to the user from then on reaches the
// socket. To register twice is to register once.
//
// Call it from a connect hook: then a client that has been told that it is connected misses nothing.
// An error, which wraps the context's or ErrDisconnected, or is ErrTooManyRooms or
// ErrTooManyDevices, means that the socket is not registered.
func (s *Socket) Register(ctx context.Context, userID string) error {
	return s.RegisterAs(ctx, User(userID))
}

// RegisterAs is Register for a room that stands for a user of another kind: see [Kind.Room].
func (s *Socket) RegisterAs(ctx context.Context, user Room) error {
	if s.isFixed(user) {
		return errors.New("hub: register: the room is no user's")
	}
	h := s.client.hub
	limited := h.options.Devices.Max > 0 && !slices.Contains(s.Registrations(), user)
	stamp := h.options.Time().UnixNano()
	var c *census
	if limited {
		c = h.devices.open(s, s.ns.subject+string(user), stamp)
		defer h.devices.close(c)
	}
	fresh, err := s.join(ctx, stamp, user)
	if err == nil && fresh && limited {
		err = h.devices.admit(ctx, h, c)
	}
	if err != nil {
		if fresh {
			s.Leave(user)
		}
		return err
	}
	if fresh && !h.options.Greeting.Off {
		return s.greet()
	}
	return nil
}

func (s *Socket) greet() error {
	g := &s.client.hub.options.Greeting
	args := []any{struct {
		Message string `json:"message"`
	}{g.Message}}
	return s.send(socketio.Packet{Type: socketio.Event}, g.Event, args, engine.Terms{})
}

// Users are the IDs that the socket is registered for with Register.
func (s *Socket) Users() []string {
	var users []string
	for _, r := range s.Registrations() {
		if id, ok := userOf(r); ok {
			users = append(users, id)
		}
	}
	return users
}

// Registrations are the rooms that the socket is registered for, with Register or RegisterAs. After
// the disconnect they are those that it was registered for.
func (s *Socket) Registrations() []Room {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rooms []Room
	for i := range s.seats {
		if s.seats[i].since != 0 {
			rooms = append(rooms, s.roomAt(i))
		}
	}
	return rooms
}
