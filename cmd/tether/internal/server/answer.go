package server

import (
	"tether/broker"
	"tether/hub"
)

// Answer says in JSON how many nodes took an event.
type Answer struct {
	Nodes *int    `json:"nodes"`           // nil: the broker cannot tell
	Bound string  `json:"bound,omitempty"` // atLeast, or the number is exact
	Live  *Answer `json:"live,omitempty"`  // of connected clients; nil: nobody has asked
}

const atLeast = "at least"

// AnswerOf is the answer with one receipt. Live says that the emitter has asked where clients are connected.
func AnswerOf(r hub.Receipt, live bool) Answer {
	a := nodesOf(r.Receipt)
	if live {
		a.Live = new(nodesOf(r.Live))
	}
	return a
}

func nodesOf(r broker.Receipt) Answer {
	switch r.Bound {
	case broker.Unknown:
		return Answer{}
	case broker.AtLeast:
		return Answer{Nodes: &r.Nodes, Bound: atLeast}
	}
	return Answer{Nodes: &r.Nodes}
}

// manyAnswer is the answer with the receipts of a batch, in their order.
type manyAnswer struct {
	Nodes  []*int      `json:"nodes"`
	Bound  string      `json:"bound,omitempty"` // atLeast: any of the numbers but 0 may be more
	Nobody int         `json:"nobody"`          // how many of them are 0
	Live   *manyAnswer `json:"live,omitempty"`  // as in Answer
}

func answerOfMany(receipts []hub.Receipt, live bool) manyAnswer {
	var out manyAnswer
	for _, r := range receipts {
		out.add(r.Receipt)
	}
	if live {
		out.Live = new(manyAnswer)
		for _, r := range receipts {
			out.Live.add(r.Live)
		}
	}
	return out
}

func (m *manyAnswer) add(r broker.Receipt) {
	one := nodesOf(r)
	m.Nodes = append(m.Nodes, one.Nodes)
	if one.Bound != "" {
		m.Bound = one.Bound
	}
	if r.Nobody() {
		m.Nobody++
	}
}
