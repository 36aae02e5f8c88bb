package adminui

import (
	"context"
	"slices"
	"strings"
	"time"

	"tether/hub"
)

// commandTime is how long the nodes may take for a command.
const commandTime = 10 * time.Second

// join is the command (namespace, room, filter?).
func (u *UI) join(ctx context.Context, s *hub.Socket, m *hub.Message) error {
	return u.move(ctx, s, m, "an operator has put sockets into a room", (*hub.Emitter).Join)
}

// leave is the command (namespace, room, filter?).
func (u *UI) leave(ctx context.Context, s *hub.Socket, m *hub.Message) error {
	return u.move(ctx, s, m, "an operator has taken sockets out of a room", (*hub.Emitter).Leave)
}

func (u *UI) move(ctx context.Context, s *hub.Socket, m *hub.Message, done string,
	do func(e *hub.Emitter, ctx context.Context, to hub.Target, rooms ...hub.Target) (hub.Changed, error)) error {
	var room string
	e, to, err := u.whom(m, &room)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	changed, err := do(e, ctx, to, targetNamed(room))
	u.log.Info(done, "page", s.ID(), "target", clip(to.String()), "room", clip(room), "sockets", changed.Sockets)
	return err
}

// disconnect is the command (namespace, whether to close the connection, filter?).
func (u *UI) disconnect(ctx context.Context, s *hub.Socket, m *hub.Message) error {
	var closes bool
	e, to, err := u.whom(m, &closes)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	changed, err := e.Disconnect(ctx, to, closes)
	u.log.Info("an operator has disconnected clients", "page", s.ID(), "target", clip(to.String()), "sockets", changed.Sockets)
	return err
}

// whom reads the arguments of a command: the namespace, one for the command itself, and the name of a socket or a room.
// Without the last one it is for everyone.
func (u *UI) whom(m *hub.Message, own any) (*hub.Emitter, hub.Target, error) {
	var namespace string
	if err := m.Bind(&namespace, own); err != nil {
		return nil, hub.Target{}, err
	}
	if !slices.Contains(u.all(), namespace) {
		return nil, hub.Target{}, hub.Refuse("pages do not show this namespace", nil)
	}
	var filter *string
	if m.Len() > 2 {
		if err := m.Decode(2, &filter); err != nil {
			return nil, hub.Target{}, err
		}
	}
	to := hub.Everyone
	if filter != nil {
		to = targetNamed(*filter)
	}
	return u.emitter.In(namespace), to, nil
}

func clip(text string) string { return text[:min(len(text), 256)] }

// nameOf is what pages call a target: the ID of a socket, the name of a room, user:ID of a user, kind:KIND:ID of a user
// of another kind. A room whose name could be one of these is room:NAME. No two targets have the same name.
func nameOf(t hub.Target) string {
	name := t.Name()
	switch {
	case t == hub.SocketID(name), t == hub.Room(name) && targetNamed(name) == t:
		return name
	case t == hub.Room(name), t == hub.User(name):
		return t.String()
	}
	return "kind:" + t.String()
}

// targetNamed is the target that pages call by that name.
func targetNamed(name string) hub.Target {
	if t := hub.SocketID(name); t != (hub.Target{}) {
		return t
	}
	prefix, rest, _ := strings.Cut(name, ":")
	switch prefix {
	case "room":
		return hub.Room(rest)
	case "user":
		return hub.User(rest)
	case "kind":
		kind, id, _ := strings.Cut(rest, ":")
		return hub.Kind(strings.NewReplacer("%3A", ":", "%25", "%").Replace(kind)).User(id)
	}
	return hub.Room(name)
}
