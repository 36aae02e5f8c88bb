package server

import (
	"slices"
	"sync"
	"time"

	"tether/cluster"
)

// GoneNode is a node that is not heard any more.
type GoneNode struct {
	Name    string    `json:"name"`
	Tag     string    `json:"tag"`
	Version string    `json:"version"`
	At      time.Time `json:"at"` // since when, by the clock of the node that says so
}

const (
	goneFor = 10 * time.Minute // for which a node remembers it
	maxGone = 64

	backTime = 10 * time.Second // that others may take to find out, and their clocks differ
)

// goneNodes remembers the nodes that have left the list of members without a drain: killed, frozen, or cut off. So a
// page and a tether top that begin later show them.
type goneNodes struct {
	mu   sync.Mutex
	last []cluster.Member // guarded by mu
	gone []GoneNode       // guarded by mu; the oldest first
}

// changed is for [hub.Options].OnMembers.
func (g *goneNodes) changed(list []cluster.Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range list { // it is back
		g.gone = slices.DeleteFunc(g.gone, func(n GoneNode) bool { return n.Tag == m.Tag })
	}
	for _, m := range g.last {
		if !m.Draining && !slices.ContainsFunc(list, func(o cluster.Member) bool { return o.Tag == m.Tag }) {
			g.gone = append(g.gone, GoneNode{m.Name, m.Tag, m.Version, time.Now().UTC()})
		}
	}
	g.last = slices.Clone(list)
	g.gone = g.gone[max(0, len(g.gone)-maxGone):]
}

func (g *goneNodes) list() []GoneNode {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = slices.DeleteFunc(g.gone, func(n GoneNode) bool { return time.Since(n.At) > goneFor })
	return slices.Clone(g.gone)
}

// Back reports whether a node has started under the name of one that is gone since the given time.
func Back(views []NodeView, name string, gone time.Time) bool {
	return slices.ContainsFunc(views, func(v NodeView) bool { return v.Name == name && v.Since.After(gone.Add(-backTime)) })
}

// goneOf are the nodes that those of the view have lost, each once, and that none of them hears. Those that have
// started again are not among them.
func goneOf(views []NodeView) (all []GoneNode) {
	for _, v := range views {
		if v.Status == nil {
			continue
		}
		for _, n := range v.Status.Gone {
			same := func(o GoneNode) bool { return o.Tag == n.Tag }
			heard := slices.ContainsFunc(views, func(o NodeView) bool { return o.Tag == n.Tag })
			if !heard && !slices.ContainsFunc(all, same) && !Back(views, n.Name, n.At) {
				all = append(all, n)
			}
		}
	}
	slices.SortFunc(all, func(a, b GoneNode) int { return a.At.Compare(b.At) })
	return all
}
