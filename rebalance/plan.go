package rebalance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tether/cluster"
	"tether/hub"
)

// What nodes ask each other. Clients cannot send these events.
const (
	askConnections = "tether:connections"
	askRebalance   = "tether:rebalance"
)

// askTime is how long the other nodes may take to say how many connections they have.
const askTime = 2 * time.Second

var errAlone = errors.New("no other node takes clients")

// load is what a node has to carry.
type load struct {
	Connections int `json:"connections"`
	Away        int `json:"away"` // clients that it has given up, and that may not be back yet
}

func (b *Balancer) load() load { return load{b.connections(), b.away.len(time.Now())} }

// plan says what this node has too many. What is not known is no reason to give anything up.
func (b *Balancer) plan(ctx context.Context, t Terms) Plan {
	members, err := b.hub.Members()
	if err != nil {
		return Plan{Connections: b.connections(), Why: err.Error()}
	}
	loads, tag := map[string]load{}, b.node.Tag()
	for _, m := range members {
		if !m.Draining {
			loads[m.Tag] = load{Connections: m.Connections}
		}
	}
	if _, takes := loads[tag]; !takes {
		return Plan{Connections: b.connections(), Why: "it drains"}
	}
	loads[tag] = b.load()
	p := share(loads, tag, t)
	if p.Shed == 0 {
		return p
	}
	if err := b.count(ctx, loads, members); err != nil {
		return Plan{Connections: p.Connections, Mean: p.Mean, Why: err.Error()}
	}
	return share(loads, tag, t)
}

// count replaces what the nodes have said last with what they say now.
func (b *Balancer) count(ctx context.Context, loads map[string]load, members []cluster.Member) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answers := b.hub.Emitter().ServerSideEmitAck(ctx, askConnections)
	counted := map[string]load{}
	for a := range answers.All {
		var l load
		if err := json.Unmarshal(a.Value, &l); err == nil {
			counted[a.Node.Tag] = l
		}
	}
	if err := answers.Err(); err != nil {
		return err
	}
	counted[b.node.Tag()] = b.load()
	why := map[string]error{}
	for _, m := range answers.Missing() {
		why[m.Node.Tag] = m.Why
	}
	for _, m := range members {
		l, said := counted[m.Tag]
		switch {
		case said && !m.Draining:
			loads[m.Tag] = l
		case !said && !m.Draining:
			return fmt.Errorf("node %s has not said how many connections it has: %w", m.Name, cmp.Or(why[m.Tag], cluster.ErrLate))
		}
	}
	return nil
}

// share is what a node has too many of the connections of all nodes that take clients.
func share(loads map[string]load, tag string, t Terms) Plan {
	total, nodes, own := 0, len(loads), loads[tag].Connections
	for _, l := range loads {
		total += l.Connections + l.Away
	}
	p := Plan{Connections: own, Mean: float64(total) / float64(nodes)}
	more := own - ceil(total, nodes)
	switch {
	case nodes < 2:
		p.Why = errAlone.Error()
	case own*100*nodes <= total*(100+t.Percent):
		p.Why = fmt.Sprintf("it has no more than %d%% more than the mean", t.Percent)
	case more < t.Least:
		p.Why = fmt.Sprintf("it has fewer than %d more than the mean", t.Least)
	default:
		p.Shed = more
	}
	return p
}

func ceil(total, nodes int) int { return (total + nodes - 1) / nodes }

// told answers a node that asks this one to look.
func (b *Balancer) told(ctx context.Context, m *hub.Message) (any, error) {
	var t Terms
	if err := m.Bind(&t); err != nil {
		return nil, err
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	return b.begin(ctx, t), nil
}

// NodePlan is what one node does.
type NodePlan struct {
	Node cluster.Member
	Plan
}

// Everywhere has all nodes look at once whether they have too many connections, whether Options.On is set or not,
// and give them up. It returns what each does, and the nodes of which that is not known, when they have begun. With the emitter of
// a hub it is about the other nodes. The error is about the terms, or that of [hub.Answers.Err].
func Everywhere(ctx context.Context, e *hub.Emitter, t Terms) (plans []NodePlan, missing []cluster.Missing, err error) {
	if err := t.check(); err != nil {
		return nil, nil, err
	}
	answers := e.In("/").ServerSideEmitAck(ctx, askRebalance, t)
	for a := range answers.All {
		p := NodePlan{Node: a.Node}
		if err := json.Unmarshal(a.Value, &p.Plan); err != nil {
			missing = append(missing, cluster.Missing{Node: a.Node, Why: err})
			continue
		}
		plans = append(plans, p)
	}
	return plans, append(missing, answers.Missing()...), answers.Err()
}
