package hub

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tether/engine"
)

// Register makes the socket one of a user's: it is among those of User(userID) from then on, and is greeted,
// see Options.Greeting. It returns once everything that is emitted to the user from then on reaches the
// socket. To register twice is to register once.
//
// Call it from a connect hook: then a client that has been told that it is connected misses nothing.
// An error, which wraps the context's or ErrDisconnected, or is ErrTarget for an empty ID, ErrTooMany
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
	if fresh {
		s.tellRegistered(to)
	}
	if fresh && !h.options.Greeting.Off {
		return s.greet()
	}
	return nil
}

// OnRegistered adds a function that is told that it may have changed whether a socket is a user's: it asks
// [Socket.Registered], for it may be told late, or in another order than that in which things happened. It is told, too,
// of the rooms of a socket when its client is told that it is connected, and of rooms that it leaves. When a socket has
// ended it is told of each user, and then of the zero Target; of that again when its session has ended, or has gone to
// another node. It is called before Run. It must return quickly, and must not call the broker.
func (h *Hub) OnRegistered(f func(s *Socket, user Target)) {
	var list []func(*Socket, Target)
	if old := h.registered.Load(); old != nil {
		list = slices.Clone(*old)
	}
	list = append(list, f)
	h.registered.Store(&list)
}

// tellRegistered tells the functions of OnRegistered. No lock is held.
func (s *Socket) tellRegistered(users ...Target) {
	list := s.client.hub.registered.Load()
	if list == nil {
		return
	}
	for _, f := range *list {
		for _, u := range users {
			f(s, u)
		}
	}
}

// tellEnded is tellRegistered for a socket that has ended.
func (s *Socket) tellEnded() {
	if s.client.hub.registered.Load() != nil {
		s.tellRegistered(append(s.Users(), Target{})...)
	}
}

// Registered says since when the socket is a user's; zero: it is not. Ok says that it counts as one: its client has
// been told that it is connected, and it has not ended. Kept reports whether the client may come back to it, see
// [Recovery]: should it be lost, or, if it is, to the session that waits for it on this node. Why is what
// [Namespace.OnUnrecovered] says of the session; "" if that says nothing, or not yet. Kept and why are the same for all users.
func (s *Socket) Registered(user Target) (since time.Time, ok, kept bool, why Reason) {
	s.mu.Lock()
	if i := s.placeLocked(s.ns.subject + user.name); i >= 0 && s.rooms[i].since != 0 {
		since = time.Unix(0, s.rooms[i].since)
	}
	v, connected := s.sessionLocked(), s.Connected()
	s.mu.Unlock()
	if v == nil || connected {
		return since, connected && !since.IsZero(), v != nil, ""
	}
	defer v.lockHolder().mu.Unlock()
	return since, false, v.away, Reason(lossText[v.lapsed])
}

func (s *Socket) greet() error {
	g := &s.client.hub.options.Greeting
	args := []any{struct {
		Message string `json:"message"`
	}{g.Message}}
	return s.sendEvent(g.Event, args, engine.Terms{})
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
