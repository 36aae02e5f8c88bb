package follow

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"tether/cluster"
	"tether/hub"
)

// What processes say to each other.
const (
	askEvents = "tether:follow"
	askRule   = "tether:follow-rule"
)

// maxEvents is how many events are in one answer.
const maxEvents = 20

// Query says which events are asked about.
type Query struct {
	IDs []ID // those of a Context. Nil: the latest

	// To is the target that the latest were emitted to, or that the client which sent them was among. The zero value is any.
	To hub.Target

	Limit int // 1 to 20. Default 20
}

// Serve has a hub answer what others ask, once its Run runs. The hub has the follower among its Tracers.
func (f *Follower) Serve(h *hub.Hub) {
	name := h.Node()
	f.node.Store(&name)
	root := h.Of("/")
	root.OnServerSide(askEvents, func(_ context.Context, m *hub.Message) (any, error) {
		q, err := f.opened(m)
		if err != nil {
			return nil, err
		}
		q.Limit = min(max(q.Limit, 1), maxEvents)
		return f.find(q), nil
	})
	root.OnServerSide(askRule, func(_ context.Context, m *hub.Message) (any, error) {
		q, err := f.opened(m)
		if err != nil {
			return nil, err
		}
		return nil, f.rule(q.To, min(max(q.For, 0), maxRule))
	})
}

// Ask asks all nodes, and this process, what became of events. E is an emitter of the hub that Serve was called
// with, or one without a hub whose Run runs. A node that is missing may know more.
func (f *Follower) Ask(ctx context.Context, e *hub.Emitter, q Query) (*Report, error) {
	if q.Limit < 0 || q.Limit > maxEvents || len(q.IDs) > maxEvents {
		return nil, fmt.Errorf("follow: ask: at most %d events can be asked about at a time", maxEvents)
	}
	in := question{IDs: q.IDs, Limit: cmp.Or(q.Limit, maxEvents)}
	if q.To != (hub.Target{}) {
		in.To = q.To.String()
	}
	switch {
	case in.IDs != nil && len(in.IDs) == 0:
		return &Report{Events: []Event{}}, nil
	case in.IDs == nil: // which are they? nodes that events come to do not know whom they were emitted to
		found, err := f.put(ctx, e, in)
		if err != nil || len(found.Events) == 0 {
			return found, err
		}
		in.To, in.IDs = "", make([]ID, len(found.Events))
		for i, ev := range found.Events {
			in.IDs[i] = ev.ID
		}
	}
	return f.put(ctx, e, in)
}

func (f *Follower) put(ctx context.Context, e *hub.Emitter, q question) (*Report, error) {
	all := f.find(q)
	answers := e.In("/").ServerSideEmitAck(ctx, askEvents, f.signed(q)...)
	var unread []Missing
	for a := range answers.All {
		var events []Event
		if err := json.Unmarshal(a.Value, &events); err != nil {
			unread = append(unread, Missing{a.Node.Name, "its answer cannot be read: " + err.Error()})
			continue
		}
		all = append(all, events...)
	}
	return &Report{Events: merge(all, q.Limit), Missing: append(missingOf(answers.Missing()), unread...)}, answers.Err()
}

// merge makes one of what several processes know of the same event, and returns the last up to limit.
func merge(all []Event, limit int) []Event {
	merged := []Event{}
	place := map[ID]int{}
	for _, e := range all {
		i, ok := place[e.ID]
		if !ok {
			place[e.ID] = len(merged)
			merged = append(merged, e)
			continue
		}
		m := &merged[i]
		arrivals := append(m.Arrivals, e.Arrivals...)
		if m.By == "" {
			*m = e
		}
		m.Arrivals = arrivals
	}
	slices.SortStableFunc(merged, func(a, b Event) int { return a.when().Compare(b.when()) })
	for i := range merged {
		slices.SortStableFunc(merged[i].Arrivals, func(a, b Arrival) int { return strings.Compare(a.Node, b.Node) })
	}
	return merged[max(0, len(merged)-limit):]
}

// when is when the event was emitted, or has first come to a node.
func (e *Event) when() time.Time {
	if e.At.IsZero() && len(e.Arrivals) > 0 {
		return e.Arrivals[0].Taken
	}
	return e.At
}

// Rule has all nodes follow for a while, an hour at most, what they emit to a target, also through their API, and remember what
// its sockets send. It returns the nodes of which that is not known. Processes without a hub do not hear of it; they have a [Context].
func (f *Follower) Rule(ctx context.Context, e *hub.Emitter, to hub.Target, d time.Duration) ([]Missing, error) {
	if d < 0 || d > maxRule {
		return nil, fmt.Errorf("follow: rule: %v is not between 0, which ends it, and %v", d, maxRule)
	}
	if to == (hub.Target{}) {
		return nil, hub.ErrTarget
	}
	if err := f.rule(to.String(), d); err != nil {
		return nil, err
	}
	answers := e.In("/").ServerSideEmitAck(ctx, askRule, f.signed(question{To: to.String(), For: d})...)
	for range answers.All { // they have nothing to say
	}
	return missingOf(answers.Missing()), answers.Err()
}

func missingOf(list []cluster.Missing) []Missing {
	out := make([]Missing, len(list))
	for i, m := range list {
		why := strings.TrimPrefix(m.Why.Error(), "cluster: ") // people read it
		if strings.Contains(why, "no handler") {
			why = "it follows nothing: it has no key for that"
		}
		out[i] = Missing{cmp.Or(m.Node.Name, m.Node.Tag), why}
	}
	return out
}
