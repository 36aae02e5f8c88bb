package server

import (
	"strings"

	"tether/cluster"
	"tether/hub"
)

// Changed says in JSON what a change of sockets on all nodes has come to.
type Changed struct {
	Nodes   int       `json:"nodes"`   // on which it is in force
	Sockets int       `json:"sockets"` // that were changed
	Missing []Missing `json:"missing"` // nodes of which that is not known
}

// Missing is a node that has not answered, or not to the end.
type Missing struct {
	Node string `json:"node"` // "" where it is not known by name
	Why  string `json:"why"`
}

// ChangedOf is the answer with a change.
func ChangedOf(c hub.Changed) Changed {
	return Changed{Nodes: len(c.Nodes), Sockets: c.Sockets, Missing: MissingOf(c.Missing)}
}

// MissingOf is never nil.
func MissingOf(list []cluster.Missing) []Missing {
	missing := make([]Missing, len(list))
	for i, m := range list {
		missing[i] = Missing{m.Node.Name, words(m.Why)}
	}
	return missing
}

// words is why a node has not answered, without the package that says so: people read it.
func words(why error) string { return strings.TrimPrefix(why.Error(), "cluster: ") }
