package conformance

import (
	"context"
	"errors"
	"io"

	"tether/cluster"
	"tether/hub"
	"tether/presence"
	"tether/revoke"
)

// device is a socket of a user.
type device struct {
	Node      string `json:"node"`
	Transport string `json:"transport"`
}

type presenceOf struct {
	Online  *bool    `json:"online"` // nil: it is not known, because nodes are missing
	Devices []device `json:"devices"`
}

// online says which users have devices, on all nodes.
func online(ctx context.Context, e *hub.Emitter, body io.Reader) (any, error) {
	var req struct {
		Users []string `json:"users"`
	}
	if err := decode(body, &req); err != nil {
		return nil, badRequest{err}
	}
	users := make([]hub.Target, len(req.Users))
	for i, id := range req.Users {
		if users[i] = hub.User(id); id == "" {
			return nil, badRequest{errors.New("a user is empty")}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	all, missing, err := presence.Online(ctx, e, users...)
	if err != nil {
		return nil, err
	}
	out := make(map[string]presenceOf, len(all))
	for _, s := range all {
		out[s.User.Name()] = presenceIn(s, len(missing) == 0)
	}
	return map[string]any{"users": out, "missing": namesOf(missing)}, nil
}

// presenceIn is the answer about one user, of all nodes or of some.
func presenceIn(s presence.Status, all bool) presenceOf {
	one := presenceOf{Devices: []device{}}
	if is := s.Online(); is || all {
		one.Online = &is
	}
	for _, d := range s.Devices {
		one.Devices = append(one.Devices, device{d.Node.Name, d.Transport})
	}
	return one
}

// putOut ends and refuses a user on all nodes.
func putOut(ctx context.Context, list *revoke.List, body io.Reader) (any, error) {
	var req struct {
		User string `json:"user"`
	}
	if err := decode(body, &req); err != nil {
		return nil, badRequest{err}
	}
	if req.User == "" {
		return nil, badRequest{errors.New("user is needed, and not empty")}
	}
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	changed, err := list.Revoke(ctx, revoke.Rule{User: hub.User(req.User)})
	if err != nil {
		return nil, err
	}
	return map[string]any{"sockets": changed.Sockets, "missing": namesOf(changed.Missing)}, nil
}

// namesOf is never nil.
func namesOf(missing []cluster.Missing) []string {
	names := make([]string, len(missing))
	for i, m := range missing {
		names[i] = m.Node.Name
	}
	return names
}
