package revoke_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
	"tether/revoke"
)

func TestWhatItDependsOn(t *testing.T) { deptest.OnHub(t, "tether/revoke") }

// auth is what clients say. The server believes it.
type auth struct {
	User    string        `json:"user,omitempty"`
	ID      string        `json:"id,omitempty"`
	Issued  int64         `json:"issued,omitempty"` // seconds since 1970
	Pause   time.Duration `json:"pause,omitempty"`  // of the connect hook, before it registers
	Linger  time.Duration `json:"linger,omitempty"` // and after it has
	Another string        `json:"another,omitempty"`
}

// rig is a cluster whose nodes have lists.
type rig struct {
	t       *testing.T
	cluster *hubtest.Cluster
	lists   map[*hubtest.Node]*revoke.List
}

func newRig(t *testing.T) *rig {
	return &rig{t: t, cluster: hubtest.NewCluster(t), lists: make(map[*hubtest.Node]*revoke.List)}
}

// node starts a node.
func (r *rig) node(name string, o revoke.Options) *hubtest.Node { return r.nodeOn(name, o, nil) }

// nodeOn starts a node to which a message is delivered if hears says so; nil: each is.
func (r *rig) nodeOn(name string, o revoke.Options, hears func(broker.Message) bool) *hubtest.Node {
	var list *revoke.List
	n := r.cluster.Node(func(b broker.Broker) (*hub.Hub, error) {
		if hears != nil {
			b = choosy{b, hears}
		}
		h, err := hub.New(b, hub.Options{Node: name, Greeting: hub.Greeting{Off: true}})
		if err != nil {
			return nil, err
		}
		if list, err = revoke.New(h, o); err != nil {
			return nil, err
		}
		h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return connect(ctx, list, s) })
		return h, nil
	})
	r.lists[n] = list
	return n
}

// choosy is a broker that loses messages.
type choosy struct {
	broker.Broker
	hears func(broker.Message) bool
}

func (c choosy) Run(ctx context.Context, h broker.Handler) error {
	deliver := h.Deliver
	h.Deliver = func(m broker.Message) {
		if c.hears(m) {
			deliver(m)
		}
	}
	return c.Broker.Run(ctx, h)
}

func connect(ctx context.Context, list *revoke.List, s *hub.Socket) error {
	var a auth
	if raw := s.Handshake().Auth; raw != nil {
		if err := json.Unmarshal(raw, &a); err != nil {
			return err
		}
	}
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	pause(a.Pause)
	token := revoke.Token{User: hub.User(a.User), ID: a.ID}
	if a.Issued != 0 {
		token.Issued = time.Unix(a.Issued, 0)
	}
	if err := list.Register(ctx, s, token); err != nil {
		return err
	}
	if a.Another != "" {
		if err := list.Register(ctx, s, revoke.Token{User: hub.User(a.Another)}); err != nil {
			return err
		}
	}
	pause(a.Linger)
	return nil
}

// revoke revokes on a node, and compares what has come of it.
func (r *rig) revoke(on *hubtest.Node, rule revoke.Rule, sockets, nodes, missing int) hub.Changed {
	r.t.Helper()
	c, err := r.lists[on].Revoke(r.t.Context(), rule)
	r.compare(c, err, sockets, nodes, missing)
	return c
}

func (r *rig) compare(c hub.Changed, err error, sockets, nodes, missing int) {
	r.t.Helper()
	if err != nil || c.Sockets != sockets || len(c.Nodes) != nodes || len(c.Missing) != missing {
		r.t.Errorf("got %d sockets, nodes %v, missing %v, %v; want %d sockets, %d nodes, %d missing", c.Sockets, c.Nodes, c.Missing, err, sockets, nodes, missing)
	}
}

const refused = "revoked"
