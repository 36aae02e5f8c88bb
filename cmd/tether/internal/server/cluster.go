package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"tether/hub"
)

// What one answer of POST /sockets and of POST /ask holds.
const (
	defaultLimit   = 1000 // sockets
	maxLimit       = 10_000
	maxAnswerBytes = 16 << 20 // of the arguments of POST /ask, as JSON
)

// limitOf is the limit of a request; 0: it says none.
func limitOf(limit int) (int, error) {
	if limit == 0 {
		return defaultLimit, nil
	}
	if limit < 0 || limit > maxLimit {
		return 0, badRequest(fmt.Errorf(`"limit" is %d; 1 to %d is right`, limit, maxLimit))
	}
	return limit, nil
}

// targeted is the target of a request, and the emitter for it.
func (a *api) targeted(t target) (*hub.Emitter, hub.Target, error) {
	e, err := a.emitter(t.Namespace)
	if err != nil {
		return nil, hub.Target{}, err
	}
	to, err := t.sockets()
	if err != nil {
		return nil, hub.Target{}, badRequest(err)
	}
	return e, to, nil
}

// Sockets are what was found of a target, in JSON.
type Sockets struct {
	Sockets []Socket  `json:"sockets"`
	More    bool      `json:"more"` // than the limit
	Missing []Missing `json:"missing"`
}

// Socket is one socket in JSON.
type Socket struct {
	ID         string          `json:"id"`
	Node       string          `json:"node"`
	Connection string          `json:"connection"`
	Transport  string          `json:"transport"`
	Rooms      []string        `json:"rooms,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
}

// SocketsOf finds up to limit sockets; 0: all. With a connection, only those of that one.
func SocketsOf(ctx context.Context, e *hub.Emitter, to hub.Target, connection string, o hub.FetchOptions, limit int) (Sockets, error) {
	out := Sockets{Sockets: []Socket{}}
	found := e.FetchSockets(ctx, to, o)
	for s := range found.All {
		if connection != "" && s.Connection != connection {
			continue
		}
		if limit > 0 && len(out.Sockets) == limit {
			out.More = true
			break
		}
		f := Socket{ID: s.ID, Node: s.Node.Name, Connection: s.Connection, Transport: s.Transport, Data: s.Data}
		for _, r := range s.Rooms {
			f.Rooms = append(f.Rooms, r.String())
		}
		out.Sockets = append(out.Sockets, f)
	}
	out.Missing = MissingOf(found.Missing())
	return out, found.Err()
}

func (a *api) fetch(ctx context.Context, body []byte) (any, error) {
	var in struct {
		target
		Rooms bool `json:"rooms"`
		Data  bool `json:"data"`
		Limit int  `json:"limit"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	e, to, err := a.targeted(in.target)
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	return SocketsOf(ctx, e, to, "", hub.FetchOptions{Rooms: in.Rooms, Data: in.Data}, limit)
}

func (a *api) join(ctx context.Context, body []byte) (any, error) {
	return a.move(ctx, body, (*hub.Emitter).Join)
}

func (a *api) leave(ctx context.Context, body []byte) (any, error) {
	return a.move(ctx, body, (*hub.Emitter).Leave)
}

func (a *api) move(ctx context.Context, body []byte, do func(e *hub.Emitter, ctx context.Context, to hub.Target, rooms ...hub.Target) (hub.Changed, error)) (any, error) {
	var in struct {
		target
		Rooms []string `json:"rooms"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	e, to, err := a.targeted(in.target)
	if err != nil {
		return nil, err
	}
	if len(in.Rooms) == 0 {
		return nil, badRequest(errors.New(`"rooms" is needed, the names of rooms`))
	}
	rooms := make([]hub.Target, len(in.Rooms))
	for i, name := range in.Rooms {
		if name == "" {
			return nil, badRequest(errors.New("a room is empty"))
		}
		rooms[i] = hub.Room(name)
	}
	changed, err := do(e, ctx, to, rooms...)
	if err != nil {
		return nil, err
	}
	return ChangedOf(changed), nil
}

// acked is what one socket has answered, in JSON. Binary is base64.
type acked struct {
	Socket string          `json:"socket"`
	Node   string          `json:"node"`
	Args   json.RawMessage `json:"args,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func ackedOf(s hub.SocketAck) (acked, error) {
	out := acked{Socket: s.ID, Node: s.Node.Name}
	if s.Err != nil {
		out.Error = s.Err.Error()
		return out, nil
	}
	var err error
	out.Args, err = json.Marshal(s.Answer.Args())
	return out, err
}

func (a *api) ask(ctx context.Context, body []byte) (any, error) {
	var in struct {
		target
		event
		Limit int `json:"limit"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	e, to, err := a.targeted(in.target)
	if err != nil {
		return nil, err
	}
	name, args, err := in.parts()
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	out := struct {
		Answers []acked   `json:"answers"`
		More    bool      `json:"more"` // than the limit, or than maxAnswerBytes
		Missing []Missing `json:"missing"`
	}{Answers: []acked{}}
	size := 0
	asked := e.EmitAck(ctx, to, name, args...)
	for s := range asked.All {
		one, err := ackedOf(s)
		if err != nil {
			return nil, err
		}
		size += len(one.Args)
		if len(out.Answers) == limit || size > maxAnswerBytes {
			out.More = true
			break
		}
		out.Answers = append(out.Answers, one)
	}
	out.Missing = MissingOf(asked.Missing())
	return out, asked.Err()
}
