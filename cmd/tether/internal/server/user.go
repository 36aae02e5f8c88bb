package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"tether/hub"
	"tether/presence"
	"tether/revoke"
)

// Online is a user in JSON.
type Online struct {
	Online  *bool    `json:"online"` // nil: it is not known, because nodes are missing
	Devices []Device `json:"devices"`
}

// Device is a socket of a user in JSON.
type Device struct {
	Socket    string    `json:"socket"`
	Node      string    `json:"node"`
	Transport string    `json:"transport"`
	Since     time.Time `json:"since"`
}

// Users are the users that are online, in JSON.
type Users struct {
	Users   map[string]Online `json:"users"`   // by ID
	Missing []Missing         `json:"missing"` // nodes whose users are not known
}

// UsersOf asks who is online.
func UsersOf(ctx context.Context, e *hub.Emitter, ids []string) (Users, error) {
	users := make([]hub.Target, len(ids))
	for i, id := range ids {
		users[i] = hub.User(id)
	}
	all, missing, err := presence.Online(ctx, e, users...)
	if err != nil {
		return Users{}, err
	}
	out := Users{Users: make(map[string]Online, len(all)), Missing: MissingOf(missing)}
	for _, s := range all {
		one := Online{Devices: []Device{}}
		if is := s.Online(); is || len(missing) == 0 {
			one.Online = &is
		}
		for _, d := range s.Devices {
			one.Devices = append(one.Devices, Device{d.Socket, d.Node.Name, d.Transport, d.Since.UTC()})
		}
		out.Users[s.User.Name()] = one
	}
	return out, nil
}

func (a *api) online(ctx context.Context, body []byte) (any, error) {
	var in struct {
		Users     []userID `json:"users"`
		Namespace string   `json:"namespace"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	e, err := a.emitter(in.Namespace)
	if err != nil {
		return nil, err
	}
	switch {
	case len(in.Users) == 0:
		return nil, badRequest(errors.New(`"users" is needed, the IDs of users`))
	case len(in.Users) > a.config.Emit.MaxTargets:
		return nil, badRequest(fmt.Errorf("%d users; the limit is %d", len(in.Users), a.config.Emit.MaxTargets))
	}
	ids := make([]string, len(in.Users))
	for i, u := range in.Users {
		ids[i] = string(u)
	}
	return UsersOf(ctx, e, ids)
}

// moment is a time: seconds since 1970, as tokens have it, or a text as in RFC 3339.
type moment struct{ time.Time }

func (m *moment) UnmarshalJSON(data []byte) error {
	wrong := errors.New(`a time is seconds since 1970, or a text like "2026-01-02T15:04:05Z"`)
	if data[0] == '"' {
		if err := json.Unmarshal(data, &m.Time); err != nil {
			return wrong
		}
		return nil
	}
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil || seconds <= 0 || seconds > 253402300799 {
		return wrong
	}
	whole, part := math.Modf(seconds)
	m.Time = time.Unix(int64(whole), int64(part*1e9))
	return nil
}

func (a *api) revoke(ctx context.Context, body []byte) (any, error) {
	var in struct {
		User   *userID `json:"user"`
		Token  string  `json:"token"`
		Before moment  `json:"before"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	r := revoke.Rule{Token: in.Token, Before: in.Before.Time}
	if in.User != nil {
		r.User = hub.User(string(*in.User))
	}
	if r == (revoke.Rule{}) {
		return nil, badRequest(errors.New(`one of "user", "token" and "before" is needed`))
	}
	changed, err := a.list.Revoke(ctx, r)
	if errors.Is(err, revoke.ErrBefore) {
		return nil, badRequest(errors.New(`"before" is more than a minute from now, or before 1970`))
	}
	if err != nil {
		return nil, err
	}
	return ChangedOf(changed), nil
}
