package cluster

import (
	"cmp"
	"slices"
	"time"

	"tether/broker"
)

// giveUp is called when the context is done.
func (a *Asking) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for tag := range a.asked {
		a.loseLocked(tag, ErrLate)
	}
	for tag := range a.parts {
		a.loseLocked(tag, ErrLate)
	}
	for _, p := range a.ready { // it has come, and is not taken any more
		at := a.parts[p.tag]
		at.why = cmp.Or(at.why, ErrLate)
	}
	a.missingLocked()
	if unnamed := a.counted - a.done; a.asked == nil && (unnamed > 0 || a.counted < 0) {
		for range max(unnamed, 1) {
			a.missing = append(a.missing, Missing{Why: ErrLate})
		}
	}
}

// wait waits until something may have changed, and asks members when it is time. It reports false when the
// context is done, or this node has ended.
func (a *Asking) wait() bool {
	a.node.mu.Lock()
	changed := a.node.changed
	a.node.mu.Unlock()
	timer := time.NewTimer(time.Until(a.next))
	defer timer.Stop()
	select {
	case <-a.news:
		a.grant()
		if a.counted < 0 && a.asked == nil && a.least > 0 {
			a.mu.Lock()
			if a.done >= a.least { // as many as the broker knows of: the others are asked at once
				a.next = time.Now()
			}
			a.mu.Unlock()
		}
	case <-changed:
	case <-timer.C:
		a.askMembers()
	case <-a.ctx.Done():
		return false
	case <-a.node.left: // nothing comes any more
		return false
	}
	return true
}

// askMembers asks the nodes that have not answered: in one message at first, but for those that have begun, and
// later each on its own subject, where the receipt says whether it is there.
func (a *Asking) askMembers() {
	members, err := a.node.Members()
	if err != nil { // nobody can be said to be missing
		a.next = time.Now().Add(countedTime)
		return
	}
	a.next = time.Now().Add(cmp.Or(a.q.Again, againTime))
	var except []string
	first := a.asked == nil
	if first {
		a.counted = -1
		a.asked = make(map[string]Member)
	}
	if a.q.To != "" { // the others have nothing to say; if it is not on the list, it is gone
		members = slices.DeleteFunc(members, func(m Member) bool { return m.Tag != a.q.To })
		if len(members) == 0 {
			members = []Member{{Tag: a.q.To}}
		}
	}
	a.mu.Lock()
	for _, m := range members {
		if p := a.parts[m.Tag]; first && (p != nil && p.done || a.q.Others && m.Tag == a.node.o.Tag) {
			except = append(except, m.Tag)
		} else if first {
			a.asked[m.Tag] = m
		}
	}
	var msgs []broker.Message
	var tags []string
	for tag := range a.asked {
		p := a.partLocked(tag)
		if p.done || first && p.next == 0 && a.q.To == "" {
			continue
		}
		except = append(except, tag)
		tags = append(tags, tag)
		msgs = append(msgs, broker.Message{Subject: NodeSubject(a.node.o.Prefix, tag), Data: a.message(p.next, nil)})
		msgs = append(msgs, a.grantedLocked(tag))
	}
	a.mu.Unlock()
	if first && a.q.To == "" && len(a.asked) > len(tags) {
		msgs = append(msgs, broker.Message{Subject: MembersSubject(a.node.o.Prefix), Data: a.message(0, except)})
	}
	if len(msgs) == 0 {
		give(a.news)
		return
	}
	receipts, _ := a.node.broker.Publish(a.ctx, msgs...) // after an error they are asked again
	for i, tag := range tags {
		if 2*i < len(receipts) && receipts[2*i].Nobody() && a.node.silent(tag) {
			a.mu.Lock()
			a.loseLocked(tag, ErrGone)
			a.mu.Unlock()
			give(a.news)
		}
	}
}

// silent reports whether a node has missed two beats, and more than one.
func (n *Node) silent(tag string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.roll.entries[tag]
	return e == nil || time.Since(e.renewed) > silentTime
}
