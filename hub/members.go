package hub

import (
	"runtime/debug"
	"sync"

	"tether/cluster"
)

// Members are the live nodes of the cluster, this one included, sorted by name. The list is the same on all
// nodes within a second; a node that was killed, frozen or cut off is off it within six seconds. The error
// says that the list may be wrong, because this node has not been there for long or does not hear the
// others: then it is what was known last.
func (h *Hub) Members() ([]cluster.Member, error) {
	list, err := h.cluster.Members()
	if state := *h.state.Load(); state != nil {
		err = state
	} else if stranger := h.publisher.stranger(); stranger != nil {
		err = stranger
	}
	return list, err
}

// member says how this node is.
func (h *Hub) member() cluster.Member {
	return cluster.Member{
		Name:        h.options.Node,
		Version:     h.options.Version,
		Address:     h.options.Address,
		Since:       h.since,
		Connections: h.clients.len(),
		Draining:    h.draining.Load(),
	}
}

// newCluster returns this node's part in the cluster. Its messages are envelopes.
func (h *Hub) newCluster() *cluster.Node {
	return cluster.New(h.broker, cluster.Options{
		Prefix:   h.options.Prefix,
		Tag:      h.tag,
		Head:     clusterHead,
		Self:     h.member,
		Answer:   h.answer,
		OnChange: h.options.OnMembers,
		Logger:   h.log,
	})
}

// clusterHead is the envelope of messages of package cluster.
var clusterHead = appendEnvelope(nil, kindCluster, 0, "", nil)

// buildVersion is the version of the program, as far as its build says it.
var buildVersion = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	return info.Main.Version
})
