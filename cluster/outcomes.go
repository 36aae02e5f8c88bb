package cluster

import (
	"errors"
	"sync/atomic"
)

// Outcomes count the questions that a node has put, by how they ended: each in one of the fields.
type Outcomes struct {
	Complete uint64 // all have answered
	Gone     uint64 // nodes are missing, and all of them are gone
	Late     uint64 // the context was done before all had answered
	Lost     uint64 // parts of answers did not arrive, or a node has answered with an error
	Left     uint64 // the caller wanted no more answers
	Failed   uint64 // the question could not be put
}

type outcomes struct{ complete, gone, late, lost, left, failed atomic.Uint64 }

// Outcomes reads the counts. They are not of one moment.
func (n *Node) Outcomes() Outcomes {
	o := &n.outcomes
	return Outcomes{o.complete.Load(), o.gone.Load(), o.late.Load(), o.lost.Load(), o.left.Load(), o.failed.Load()}
}

// count is called when Pages has ended.
func (a *Asking) count() {
	o := &a.node.outcomes
	gone, late, lost := false, false, false
	for _, m := range a.missing {
		switch {
		case errors.Is(m.Why, ErrGone):
			gone = true
		case errors.Is(m.Why, ErrLate):
			late = true
		default:
			lost = true
		}
	}
	switch {
	case late:
		o.late.Add(1)
	case lost:
		o.lost.Add(1)
	case gone:
		o.gone.Add(1)
	case !a.ended:
		o.left.Add(1)
	default:
		o.complete.Add(1)
	}
}
