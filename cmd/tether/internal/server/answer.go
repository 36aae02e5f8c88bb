package server

import (
	"tether/broker"
	"tether/hub"
)

// Answer says in JSON how many nodes took an event.
type Answer struct {
	Nodes *int   `json:"nodes"`           // nil: the broker cannot tell
	Bound string `json:"bound,omitempty"` // atLeast, or the number is exact
}

const atLeast = "at least"

// AnswerOf is the answer with one receipt.
func AnswerOf(r hub.Receipt) Answer {
	switch r.Bound {
	case broker.Unknown:
		return Answer{}
	case broker.AtLeast:
		return Answer{&r.Nodes, atLeast}
	}
	return Answer{Nodes: &r.Nodes}
}

// manyAnswer is the answer with the receipts of a batch, in their order.
type manyAnswer struct {
	Nodes  []*int `json:"nodes"`
	Bound  string `json:"bound,omitempty"` // atLeast: any of the numbers but 0 may be more
	Nobody int    `json:"nobody"`          // how many of them are 0
}

func answerOfMany(receipts []hub.Receipt) manyAnswer {
	out := manyAnswer{Nodes: make([]*int, len(receipts))}
	for i, r := range receipts {
		one := AnswerOf(r)
		out.Nodes[i] = one.Nodes
		if one.Bound != "" {
			out.Bound = one.Bound
		}
		if r.Nobody() {
			out.Nobody++
		}
	}
	return out
}
