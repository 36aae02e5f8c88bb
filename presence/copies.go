package presence

import (
	"context"
	"encoding/binary"
	"time"

	"tether/cluster"
)

// putCopyLocked keeps a copy of another node's record, unless a later one is known.
func (p *Presence) putCopyLocked(c *record) {
	p.term = max(p.term, termOf(c.version))
	r := p.recordLocked(c.key, hashKey(c.key))
	if c.version > r.version {
		r.version, r.change, r.devices, r.marks = c.version, c.change, c.devices, c.marks
		r.idleFrom = time.Time{}
		r.emptied = time.Time{}
	}
	p.idleLocked(r)
}

func (p *Presence) routeCopy(r *record) string {
	if !p.ownedLocked(r) {
		return ""
	}
	_, deputy := p.view.place(r.hash)
	return deputy
}

// sendCopies gives records to their deputy. It returns those that it has not taken.
func (p *Presence) sendCopies(ctx context.Context, to string, list []*record) (again []*record) {
	for len(list) > 0 {
		p.mu.Lock()
		body := []byte{wireVersion}
		if p.view != nil {
			body = binary.BigEndian.AppendUint64(body, p.view.hash)
		}
		var versions []uint64
		for len(versions) < len(list) && len(body) < batchBytes {
			r := list[len(versions)]
			body = r.append(body)
			versions = append(versions, r.version)
		}
		p.mu.Unlock()
		sent := list[:len(versions)]
		list = list[len(versions):]
		if !p.copyTo(ctx, to, body) {
			again = append(again, sent...)
			continue
		}
		p.mu.Lock()
		for i, r := range sent {
			r.deputy, r.copied = to, versions[i]
			if p.ownedLocked(r) {
				p.settleLocked(r)
			}
		}
		p.turnLocked()
		p.mu.Unlock()
	}
	return again
}

func (p *Presence) copyTo(ctx context.Context, to string, body []byte) (taken bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asking := p.node.Ask(ctx, cluster.Question{Topic: topicCopy, Body: body, To: to})
	for _, page := range asking.Pages {
		taken = len(page) == 1 && page[0] == 1
	}
	return taken
}

// answerCopy takes copies of an owner that has the same view.
func (p *Presence) answerCopy(ctx context.Context, q *cluster.Request) error {
	r := read(q.Body)
	if r.Byte() != wireVersion {
		return errVersion
	}
	hash := r.Fixed()
	var copies []*record
	for r.More() {
		copies = append(copies, readRecord(&r))
	}
	if r.Bad {
		return errMalformed
	}
	waiting, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	same := p.until(waiting, func() bool {
		now := p.node.Standing()
		return p.view != nil && p.view.hash == hash && now.Err == nil && now.Absences == p.standing.Absences
	})
	if same {
		for _, c := range copies {
			p.putCopyLocked(c)
		}
	}
	p.mu.Unlock()
	return q.Send(ctx, []byte{flag(same, 1)})
}
