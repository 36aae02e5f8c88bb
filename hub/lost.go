package hub

import (
	"errors"
	"fmt"
	"time"

	"tether/broker"
)

// drop records that the backend has ended subscriptions, and has them renewed. The broker calls it.
func (in *interest) drop(g broker.Gap) {
	in.log.Error("the broker has ended subscriptions of this node", "rooms", len(g.Subjects), "cause", g.Cause)
	var over []string // rooms that nobody here waits for any more: their gap has ended
	for _, subject := range g.Subjects {
		r := in.index.lookup(subject)
		if r == nil || !in.dropRoom(r, g) {
			over = append(over, subject)
		}
	}
	in.rouse() // once all are marked: what is lost together is renewed together, and is one gap
	if len(over) > 0 {
		in.gap(broker.Gap{From: g.From, To: time.Now(), Subjects: over, Cause: g.Cause})
	}
}

// dropRoom has the subscription of r renewed, once run is roused. It reports false if it is wanted no more.
func (in *interest) dropRoom(r *room, g broker.Gap) (wanted bool) {
	sh := in.index.shard(r)
	sh.mu.Lock()
	edge := false
	if r.subscribed || r.busy {
		if wanted = r.n > 0; wanted {
			in.lose(r, g)
		}
		r.subscribed, r.lost = false, true
		edge = sh.edgeLocked(r)
		if sh.idleLocked(r) {
			in.index.forgetLocked(sh, r)
		}
	}
	sh.mu.Unlock()
	if edge {
		in.index.mark(r)
	}
	return wanted
}

// lose begins the gap of r.
func (in *interest) lose(r *room, g broker.Gap) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if _, known := in.lost[r]; !known {
		in.lost[r] = broker.Gap{From: g.From, Subjects: []string{r.subject}, Cause: g.Cause}
	}
}

// missing says which rooms this node does not hear although it should, nil if there are none.
func (in *interest) missing() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, g := range in.lost {
		return fmt.Errorf("hub: the broker has ended the subscriptions of %d rooms: %w", len(in.lost), g.Cause)
	}
	return nil
}

// endGap ends the gap of r, if it was lost, for report.
func (in *interest) endGap(r *room) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if g, lost := in.lost[r]; lost {
		delete(in.lost, r)
		g.To = time.Now()
		in.found = append(in.found, g)
	}
}

// report tells of the gaps that have ended: those that began together as one.
func (in *interest) report() {
	found := in.found
	in.found = nil
	for len(found) > 0 {
		g, others := found[0], found[:0]
		for _, o := range found[1:] {
			if o.From.Equal(g.From) && errors.Is(o.Cause, g.Cause) {
				g.To, g.Subjects = o.To, append(g.Subjects, o.Subjects...)
			} else {
				others = append(others, o)
			}
		}
		found = others
		in.gap(g)
	}
}
