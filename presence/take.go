package presence

import (
	"context"

	"tether/cluster"
)

// takeWholes takes a page of what a node shows in rooms. What is not complete yet waits in got.
func (p *Presence) takeWholes(tag string, page []byte, got map[string][]shown) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r := read(page); r.More(); {
		x := readExcerpt(&r)
		if r.Bad || x.flags&excerptWhole == 0 {
			return
		}
		got[x.key] = append(got[x.key], x.names...)
		if x.flags&excerptMore != 0 {
			continue
		}
		if w := p.watched[x.key]; w != nil && w.parts[tag] != nil {
			p.takeWholeLocked(w, w.parts[tag], &x, got[x.key])
		}
	}
}

// takeWholeLocked takes all that a node shows in a room, unless a later change has been heard of.
func (p *Presence) takeWholeLocked(w *watched, t *part, x *excerpt, names []shown) {
	if x.upto < t.heard {
		return
	}
	before := t.names
	t.names = make(map[string]seen, len(names))
	for _, n := range names {
		p.takeNameLocked(w, t, n)
	}
	for name := range before {
		if _, here := t.names[name]; !here {
			p.goneLocked(w, name, stateEnded) // how it went was not heard
		}
	}
	t.heard, t.known, t.failed = x.upto, true, false
	p.kickLocked(w)
}

func (p *Presence) takeNameLocked(w *watched, t *part, n shown) {
	if n.state == stateHere {
		t.names[n.name] = n.seen
		delete(w.lingering, n.name)
		w.changed[n.name] = struct{}{}
		return
	}
	delete(t.names, n.name)
	p.goneLocked(w, n.name, n.state)
}

// answerFeed takes what a node says has changed.
func (p *Presence) answerFeed(ctx context.Context, q *cluster.Request) error {
	answer, err := p.takeFeeds(q.Body)
	if err != nil {
		return err
	}
	return q.Send(ctx, answer)
}

func (p *Presence) takeFeeds(body []byte) (answer []byte, err error) {
	r := read(body)
	if r.Byte() != wireVersion {
		return nil, errVersion
	}
	from := r.text()
	var list []excerpt
	for r.More() {
		list = append(list, readExcerpt(&r))
	}
	if r.Bad {
		return nil, errMalformed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range list {
		w := p.watched[list[i].key]
		if w == nil {
			answer = append(answer, fedUnasked)
			continue
		}
		answer = append(answer, fedTaken)
		if t := w.parts[from]; t != nil { // else it is not on the list yet, and will be asked
			p.takeChangesLocked(w, t, &list[i])
		}
	}
	return answer, nil
}

// takeChangesLocked takes changes of a node that follow those that are known. Where some are missing, all is asked.
func (p *Presence) takeChangesLocked(w *watched, t *part, x *excerpt) {
	switch {
	case x.upto <= t.heard: // late, or doubled
		return
	case !t.known || x.after > t.heard:
		t.heard, t.known = x.upto, false
		p.parts.pushLocked(t)
		return
	}
	for _, n := range x.names {
		p.takeNameLocked(w, t, n)
	}
	t.heard = x.upto
	p.kickLocked(w)
}
