package server

import (
	"context"
	"errors"
	"time"

	"tether/follow"
	"tether/hub"
)

// followTime is for how long the page has events followed.
const followTime = time.Minute

var errNoFollower = badRequest(errors.New("events are followed where admin.keys was set at the start of the node"))

// follow has all nodes follow for a minute what they emit to a target.
func (a *admin) follow(ctx context.Context, body []byte) (any, error) {
	e, to, err := a.followable(body)
	if err != nil {
		return nil, err
	}
	missing, err := a.server.follower.Rule(ctx, e, to, followTime)
	return map[string]any{"seconds": followTime.Seconds(), "missing": missing}, err
}

// followed says what became of the latest events to a target: names, and no arguments.
func (a *admin) followed(ctx context.Context, body []byte) (any, error) {
	e, to, err := a.followable(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	return a.server.follower.Ask(ctx, e, follow.Query{To: to})
}

// followable is the target of a request, if this node can follow events.
func (a *admin) followable(body []byte) (*hub.Emitter, hub.Target, error) {
	var in struct{ target }
	if err := decode(body, &in); err != nil {
		return nil, hub.Target{}, err
	}
	e, to, err := a.server.api.targeted(in.target)
	if err == nil && a.server.follower == nil {
		err = errNoFollower
	}
	return e, to, err
}
