package presence

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"tether/cluster"
	"tether/internal/wire"
)

// pull asks all nodes for what they know of the users that this one owns, until they have said it, there is
// another view, or ctx is done. Then this node is active. A question under way is not given up for another view: a
// node that has answered may end, and what it knew is on its way.
func (p *Presence) pull(ctx context.Context, v *view) {
	for pause := minRetry; ctx.Err() == nil && p.sees(v); pause = min(2*pause, maxRetry) {
		if p.pullOnce(ctx, v) {
			return
		}
		wait(ctx, pause)
	}
}

func (p *Presence) sees(v *view) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view == v
}

func (p *Presence) pullOnce(ctx context.Context, v *view) bool {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	p.mu.Lock()
	late := lastWords - time.Since(p.lost)
	body := binary.BigEndian.AppendUint64([]byte{wireVersion}, v.hash)
	base := uint64(0)
	if p.base != nil {
		base = p.base.hash
	}
	body = wire.AppendText(binary.BigEndian.AppendUint64(body, base), p.tag)
	p.mu.Unlock()
	got := &gathered{users: make(map[string][]wordUser)}
	said := map[string]bool{p.tag: true}
	if len(v.nodes) > 1 {
		asking := p.node.Ask(ctx, cluster.Question{Topic: topicPull, Body: body, Others: true})
		for tag, page := range asking.Pages {
			if _, in := v.nodes[tag]; !in { // it takes part by the next view, and its users would seem to have gone with it
				continue
			}
			if !p.takePart(v, tag, page, got) {
				return false
			}
			said[tag] = true
		}
		if asking.Err() != nil {
			return false
		}
		for _, m := range asking.Missing() {
			delete(said, m.Node.Tag)
		}
	}
	for tag := range v.nodes {
		if !said[tag] {
			return false
		}
	}
	if late > 0 {
		wait(ctx, late)
	}
	return p.activate(v, got)
}

// takePart takes a part of an answer. It comes too late when this node decides by another view.
func (p *Presence) takePart(v *view, tag string, page []byte, got *gathered) bool {
	r := read(page)
	if r.Byte() != pullPart {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.view != v && p.active {
		return false
	}
	p.term = max(p.term, r.Uvarint())
	got.settled = r.Byte() == 1 || got.settled
	for r.More() {
		switch r.Byte() {
		case pullWord:
			u := readWordUser(&r)
			p.term = max(p.term, termOf(u.known.number))
			if !r.Bad {
				got.users[tag] = append(got.users[tag], u)
			}
		case pullRecord:
			if c := readRecord(&r); !r.Bad {
				p.putCopyLocked(c)
			}
		default:
			return false
		}
	}
	return !r.Bad
}

// gathered is what the nodes have said, but for the records, which are put among those of this node.
type gathered struct {
	users   map[string][]wordUser // by the tag of the node
	settled bool                  // one of them is
}

// activate puts together what all nodes have said.
func (p *Presence) activate(v *view, all *gathered) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled = p.settled || all.settled || time.Since(p.heard) >= newTime
	if !p.settled {
		return false
	}
	now := p.node.Standing()
	if p.view != v || now.Err != nil || now.Absences != p.standing.Absences {
		return false
	}
	p.nextTermLocked()
	for _, h := range p.holdings {
		if v.owner(h.hash) == p.tag {
			w := word{}
			w.add(h, 0)
			all.users[p.tag] = append(all.users[p.tag], w.users[0])
		}
	}
	changed, heard := p.learnLocked(all.users)
	base := p.base
	p.base, p.active, p.decides = v, true, time.Now()
	p.spareFrom = time.Now()
	for _, r := range p.records {
		if v.owner(r.hash) != p.tag {
			continue
		}
		if r.lose(v, p.nextVersionLocked) {
			changed[r] = true
		}
		if base == nil || base.owner(r.hash) != p.tag { // a node that has said nothing of it has nothing of it
			for tag := range v.nodes {
				if !heard[r][tag] && r.replace(tag, nil, p.nextVersionLocked) {
					changed[r] = true
				}
			}
		}
		if changed[r] {
			p.changedLocked(r)
		} else {
			p.evaluateLocked(r)
		}
	}
	p.turnLocked()
	p.log.Debug("presence decides", "view", v.hash, "changed", len(changed), "all", base == nil)
	return true
}

// learnLocked takes what nodes have said of their users. It returns the records that have changed, and by record
// the nodes that have said something of it.
func (p *Presence) learnLocked(said map[string][]wordUser) (changed map[*record]bool, heard map[*record]map[string]bool) {
	changed, heard = make(map[*record]bool), make(map[*record]map[string]bool)
	for tag, users := range said {
		for i := range users {
			u := &users[i]
			r := p.recordLocked(u.key, hashKey(u.key))
			learned := r.learn(u.known)
			if r.replace(tag, u, p.nextVersionLocked) || learned {
				changed[r] = true
			}
			if heard[r] == nil {
				heard[r] = make(map[string]bool)
			}
			heard[r][tag] = true
		}
	}
	return changed, heard
}

// answerPull says what this node knows of the users that the asker owns, when it has the same view.
func (p *Presence) answerPull(ctx context.Context, q *cluster.Request) error {
	r := read(q.Body)
	if r.Byte() != wireVersion {
		return errVersion
	}
	hash, base := r.Fixed(), r.Fixed()
	asker := r.text()
	if r.Bad {
		return errMalformed
	}
	same := func() bool {
		now := p.node.Standing()
		return p.view != nil && p.view.hash == hash && now.Err == nil && now.Absences == p.standing.Absences
	}
	p.mu.Lock()
	joined := p.joined
	p.mu.Unlock()
	if !joined {
		return nil // it is not asked as one that takes part
	}
	waiting, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	if !p.until(waiting, same) {
		p.mu.Unlock()
		return q.Send(ctx, []byte{pullOther})
	}
	v := p.view
	p.mu.Unlock()
	// What is being told now is not to be told by the asker again.
	patience, stop := context.WithTimeout(ctx, hookPatience)
	defer stop()
	p.until(patience, func() bool { return p.running == 0 || p.view != v })
	if p.view != v {
		p.mu.Unlock()
		return q.Send(ctx, []byte{pullOther})
	}
	holdings, records := p.ofLocked(v, asker, base)
	head := append(binary.AppendUvarint([]byte{pullPart}, p.term), flag(p.settled, 1))
	p.mu.Unlock()
	if err := p.sendParts(ctx, q, head, holdings, records); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.view == v {
		p.spareFrom = time.Now()
		p.pulled[asker] = p.spareFrom
		p.turnLocked()
	}
	return nil
}

// ofLocked finds what concerns users of an owner that it did not own with its base; if that is not known here, all.
func (p *Presence) ofLocked(v *view, owner string, base uint64) (holdings []*holding, records []*record) {
	var before *view
	for _, o := range p.past {
		if o.hash == base {
			before = o
		}
	}
	gained := func(hash uint64) bool {
		return v.owner(hash) == owner && (before == nil || before.owner(hash) != owner)
	}
	for _, h := range p.holdings {
		if gained(h.hash) {
			holdings = append(holdings, h)
		}
	}
	for _, r := range p.records {
		if gained(r.hash) {
			records = append(records, r)
		}
	}
	return holdings, records
}

func (p *Presence) sendParts(ctx context.Context, q *cluster.Request, head []byte, holdings []*holding, records []*record) error {
	for {
		page := slices.Clone(head)
		p.mu.Lock()
		for len(page) < batchBytes && len(holdings) > 0 {
			var w word
			w.add(holdings[0], 0)
			page = w.users[0].append(append(page, pullWord))
			holdings = holdings[1:]
		}
		for len(page) < batchBytes && len(records) > 0 {
			page = records[0].append(append(page, pullRecord))
			records = records[1:]
		}
		p.mu.Unlock()
		if err := q.Send(ctx, page); err != nil {
			return err
		}
		if len(holdings)+len(records) == 0 {
			return nil
		}
	}
}
