package server

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/transport"
)

// What nodes say to each other, beside what packages hub and cluster do. Other names would do as well: clients
// cannot send these events.
const (
	askStatus = "tether:status"
	askDrain  = "tether:drain"
)

// slowest is how many clients with long queues a node names.
const slowest = 20

// NodeStatus is what a node says of itself, for the page and for tether top.
type NodeStatus struct {
	Reason   string   `json:"reason,omitempty"` // why it should get no new clients
	Warnings []string `json:"warnings,omitempty"`

	Uptime      float64 `json:"uptime"` // seconds
	Connections int     `json:"connections"`
	Rooms       int     `json:"rooms"`
	Parked      int     `json:"parked"`
	Emitted     uint64  `json:"emitted"`
	Nobody      uint64  `json:"nobody"`
	Unknown     uint64  `json:"unknown"`
	Delivered   uint64  `json:"delivered"`
	Events      uint64  `json:"events"`
	Unwanted    uint64  `json:"unwanted"`
	Gaps        uint64  `json:"gaps"`
	Dropped     uint64  `json:"dropped"`
	Slow        uint64  `json:"slow"`
	Queued      int64   `json:"queued"`  // bytes
	Behind      int     `json:"behind"`  // clients
	Longest     int64   `json:"longest"` // bytes

	Slowest []SlowClient `json:"slowest,omitempty"`
	Gone    []GoneNode   `json:"gone,omitempty"` // nodes that it has lost in the last ten minutes
}

// SlowClient is a client that is behind.
type SlowClient struct {
	Connection string `json:"connection"`
	Bytes      int    `json:"bytes"`
}

// NodeView is a node as another process sees it.
type NodeView struct {
	Name        string      `json:"name"`
	Tag         string      `json:"tag"`
	Version     string      `json:"version"`
	Address     string      `json:"address,omitempty"`
	Since       time.Time   `json:"since"`
	Connections int         `json:"connections"`
	Draining    bool        `json:"draining"`
	Silent      string      `json:"silent,omitempty"` // why it has not said how it is
	Status      *NodeStatus `json:"status,omitempty"`
}

// ClusterView is all nodes, sorted by name.
type ClusterView struct {
	At        time.Time  `json:"at"`
	Uncertain string     `json:"uncertain,omitempty"` // why the list may be wrong
	Nodes     []NodeView `json:"nodes"`
	Gone      []GoneNode `json:"gone"` // the oldest first
}

// NewView is the view of nodes as they have answered.
func NewView(at time.Time, nodes []NodeView) *ClusterView {
	v := &ClusterView{At: at.UTC(), Nodes: nodes, Gone: goneOf(nodes)}
	if v.Gone == nil {
		v.Gone = []GoneNode{}
	}
	return v
}

// statusTime is how long nodes may take to say how they are.
const statusTime = 1500 * time.Millisecond

// ViewCluster asks all nodes how they are. Own is the status of the node with ownTag, which is not asked; a
// process that is no node has neither.
func ViewCluster(ctx context.Context, e *hub.Emitter, members []cluster.Member, ownTag string, own *NodeStatus) []NodeView {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	statuses, silent := map[string]*NodeStatus{ownTag: own}, map[string]string{}
	answers := e.ServerSideEmitAck(ctx, askStatus)
	for a := range answers.All {
		var s NodeStatus
		if json.Unmarshal(a.Value, &s) == nil {
			statuses[a.Node.Tag] = &s
		}
	}
	for _, m := range answers.Missing() {
		silent[m.Node.Tag] = words(m.Why)
	}
	views := make([]NodeView, len(members))
	for i, m := range members {
		v := NodeView{m.Name, m.Tag, m.Version, m.Address, m.Since.UTC(), m.Connections, m.Draining, silent[m.Tag], statuses[m.Tag]}
		if err := answers.Err(); err != nil && v.Status == nil && v.Silent == "" {
			v.Silent = words(err)
		}
		if v.Status == nil && v.Silent == "" {
			v.Silent = "it has not said how it is"
		}
		views[i] = v
	}
	return views
}

// status is this node's.
func (s *Server) status() *NodeStatus {
	h, t := s.hub.Stats(), s.sockets.Stats()
	c := s.health.condition("")
	return &NodeStatus{
		Reason: c.Reason, Warnings: c.Warnings, Uptime: time.Since(s.health.started).Seconds(),
		Connections: h.Connections, Rooms: h.Rooms, Parked: h.Parked,
		Emitted: h.Emitted, Nobody: h.Nobody, Unknown: h.Unknown + h.Unplaced,
		Delivered: h.Delivered, Events: h.Events, Unwanted: h.Wasted, Gaps: h.Gaps,
		Dropped: t.Dropped + t.Replaced, Slow: t.Slow, Queued: t.Queued, Behind: t.Behind, Longest: t.Longest,
		Slowest: slowClients(t.Behind, s.sockets), Gone: s.gone.list(),
	}
}

func slowClients(behind int, sockets *transport.Handler) (all []SlowClient) {
	if behind == 0 {
		return nil
	}
	for _, w := range sockets.Longest(slowest) {
		all = append(all, SlowClient(w))
	}
	return all
}

// answerNodes answers other nodes.
func (s *Server) answerNodes() {
	if s.follower != nil {
		s.follower.Serve(s.hub)
	}
	root := s.hub.Of("/")
	root.OnServerSide(askStatus, func(context.Context, *hub.Message) (any, error) { return s.status(), nil })
	root.OnServerSide(askDrain, func(_ context.Context, m *hub.Message) (any, error) {
		var tag string
		if err := m.Bind(&tag); err != nil {
			return nil, err
		}
		return s.drain(tag), nil
	})
}

// drain begins the drain of this node if it has the tag, and its operators have given it an admin address.
func (s *Server) drain(tag string) bool {
	if tag != s.tag() || s.loaded.Admin.Addr == "" {
		return false
	}
	s.log.Info("told by an operator to stop")
	select {
	case s.drained <- struct{}{}:
	default: // it has been told already
	}
	return true
}

func (s *Server) tag() string { return s.hub.Emitter().Cluster().Tag() }

// view is all nodes as this one sees them.
func (s *Server) view(ctx context.Context) *ClusterView {
	members, err := s.hub.Members()
	v := NewView(time.Now(), ViewCluster(ctx, s.hub.Emitter(), members, s.tag(), s.status()))
	if err != nil {
		v.Uncertain = err.Error()
	}
	slices.SortStableFunc(v.Nodes, func(a, b NodeView) int { return strings.Compare(a.Name, b.Name) })
	return v
}
