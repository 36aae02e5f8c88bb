package hub

import (
	"context"
	"fmt"
	"slices"

	"tether/engine"
	"tether/internal/socketio"
)

// Register makes the socket one of a user's: it is among those of User(userID) from then on, and is greeted,
// see Options.Greeting. It returns once everything that is emitted to the user from then on reaches the
// socket. To register twice is to register once.
//
// Call it from a connect hook: then a client that has been told that it is connected misses nothing.
// An error, which wraps the context's or ErrDisconnected, or is ErrTarget for an empty ID, ErrTooManyRooms
// or ErrTooManyDevices, means that the socket is not registered.
func (s *Socket) Register(ctx context.Context, userID string) error {
	return s.RegisterAs(ctx, User(userID))
}

// RegisterAs is Register for a user of any kind: see [Kind.User]. The error is ErrTarget for a target that
// is no user.
func (s *Socket) RegisterAs(ctx context.Context, to Target) error {
	if to.kind != user {
		return fmt.Errorf("hub: register: %w", ErrTarget)
	}
	h := s.client.hub
	limited := h.options.Devices.Max > 0 && !slices.Contains(s.Users(), to)
	stamp := h.options.Time().UnixNano()
	var c *census
	if limited {
		c = h.devices.open(s, s.ns.subject+to.name, stamp)
		defer h.devices.close(c)
	}
	fresh, err := s.join(ctx, stamp, to)
	if err == nil && fresh && limited {
		err = h.devices.admit(ctx, h, c)
	}
	if err != nil {
		if fresh {
			s.Leave(to)
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

// Users are the users that the socket is registered for, with Register or RegisterAs: [Target.Name] is an
// ID. After the disconnect they are those that it was registered for.
func (s *Socket) Users() []Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	var users []Target
	for i := range s.rooms {
		if s.rooms[i].since != 0 {
			users = append(users, s.targetAt(i))
		}
	}
	return users
}
