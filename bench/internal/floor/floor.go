// Package floor is the physical limit behind a bare broker: a publish, a subscription, and one write to the
// user's socket. It has no receipts, and loses what a broken connection loses.
package floor

import (
	"context"
	"fmt"
	"net/url"
	"slices"

	"tether/bench/internal/emit"
)

// Floor says which client is where.
type Floor struct {
	Broker       string // URL
	Users, Nodes int    // users are divided over the nodes in order
	Each         bool   // each user has a subject, and not each node: the publisher need not know on which node a user is
}

// Follow subscribes to what is for the users of a node, and calls deliver with each payload until ctx is done,
// or deliver fails. ready is called when the subscriptions are live.
func (f Floor) Follow(ctx context.Context, node int, ready func(), deliver func(payload []byte) error) error {
	u, err := f.parse()
	if err != nil {
		return err
	}
	var subjects []string
	for user := range f.Users {
		if s := f.subject(uint32(user)); f.node(uint32(user)) == node && !slices.Contains(subjects[max(len(subjects)-1, 0):], s) {
			subjects = append(subjects, s)
		}
	}
	if u.Scheme == "nats" {
		return followNATS(ctx, f.Broker, subjects, ready, deliver)
	}
	return followRedis(ctx, u.Host, subjects, ready, deliver)
}

// Dial returns what publishes for nodes that follow.
func (f Floor) Dial() (emit.Sender, error) {
	u, err := f.parse()
	if err != nil {
		return emit.Sender{}, err
	}
	subjects := make([]string, f.Users)
	for user := range subjects {
		subjects[user] = f.subject(uint32(user))
	}
	if u.Scheme == "nats" {
		return dialNATS(f.Broker, subjects)
	}
	return dialRedis(u.Host, subjects)
}

func (f Floor) node(user uint32) int { return (int(user)*f.Nodes + f.Nodes - 1) / f.Users }

func (f Floor) subject(user uint32) string {
	if f.Each {
		return fmt.Sprint("bench.floor.user.", user)
	}
	return fmt.Sprint("bench.floor.node.", f.node(user))
}

func (f Floor) parse() (*url.URL, error) {
	u, err := url.Parse(f.Broker)
	if err != nil || u.Scheme != "redis" && u.Scheme != "nats" || u.Host == "" || f.Users <= 0 || f.Nodes <= 0 {
		return nil, fmt.Errorf("floor: it needs -broker redis://HOST:PORT or nats://HOST:PORT, users and nodes")
	}
	return u, nil
}
