package presence

import (
	"context"
	"slices"
	"strconv"
	"time"

	"tether/cluster"
)

// Versions order what owners say of one user, whichever node owned it. The upper bits are a term. A node that
// becomes an owner takes a term that is higher than all that it has heard of from the others, and than the
// wall clock in seconds: so versions rise also when a whole cluster was away.
const seqBits = 28

func termOf(version uint64) uint64 { return version >> seqBits }

func (p *Presence) nextTermLocked() {
	p.term = max(p.term+1, uint64(max(0, time.Now().Unix())))
	p.seq = 0
}

func (p *Presence) nextVersionLocked() uint64 {
	if p.seq++; p.seq>>seqBits != 0 {
		p.nextTermLocked()
	}
	return p.term<<seqBits | p.seq
}

// remembrance is for how long an owner remembers that a user has gone offline, so that an older word of a node
// that was away meanwhile is known to be old; a node that was away for longer forgets all that it knows of others.
const remembrance = 10 * time.Minute

// record is that of a key, which is made if there is none.
func (p *Presence) recordLocked(key string, hash uint64) *record {
	r := p.records[key]
	if r == nil {
		r = &record{key: key, hash: hash}
		p.records[key] = r
	}
	return r
}

// ownedLocked reports whether this node may decide about a user.
func (p *Presence) ownedLocked(r *record) bool {
	return p.liveLocked() && p.view.owner(r.hash) == p.tag
}

// liveLocked reports whether what this node knows of its users is all, and nobody else decides about them.
func (p *Presence) liveLocked() bool {
	if !p.active {
		return false
	}
	now := p.node.Standing()
	return now.Err == nil && now.Absences == p.standing.Absences && now.Changes == p.standing.Changes
}

// answerWord takes a word, and answers when the deputies know it too.
func (p *Presence) answerWord(ctx context.Context, q *cluster.Request) error {
	r := read(q.Body)
	if r.Byte() != wireVersion {
		return errVersion
	}
	w := word{from: r.text()}
	for r.More() {
		w.users = append(w.users, readWordUser(&r))
	}
	if r.Bad {
		return errMalformed
	}
	var page []byte
	for _, a := range p.takeWord(ctx, &w) {
		page = a.known.append(append(page, flag(a.taken, 1)))
	}
	return q.Send(ctx, page)
}

// tellTime is for how long an answer to a word waits until a change has been told, so that the node that asks can
// remember that it has. It is not waited for longer, as others come behind it.
const tellTime = 100 * time.Millisecond

// takeWord returns an answer for each user of the word.
func (p *Presence) takeWord(ctx context.Context, w *word) []wordAnswer {
	answers := make([]wordAnswer, len(w.users))
	ctx, cancel := context.WithTimeout(ctx, askTimeout/2)
	defer cancel()
	ready, stop := context.WithTimeout(ctx, waitLimit)
	defer stop()
	if !p.until(ready, p.liveLocked) {
		p.mu.Unlock()
		return answers
	}
	if _, known := p.view.nodes[w.from]; !known { // it is not on the list yet, or has been given up
		p.mu.Unlock()
		return answers
	}
	records := make([]*record, len(w.users))
	versions := make([]uint64, len(w.users))
	for i := range w.users {
		u := &w.users[i]
		hash := hashKey(u.key)
		if p.view.owner(hash) != p.tag {
			continue
		}
		r := p.recordLocked(u.key, hash)
		records[i] = r
		learned := r.learn(u.known)
		if r.apply(w.from, u, p.nextVersionLocked) || learned {
			p.changedLocked(r)
		} else {
			p.settleLocked(r)
		}
		versions[i] = r.version
	}
	p.mu.Unlock()
	safe := func(told bool) func() bool {
		return func() bool {
			return !slices.ContainsFunc(records, func(r *record) bool {
				return r != nil && p.ownedLocked(r) && (p.copiedLocked(r) < r.version || told && !r.change.settled())
			})
		}
	}
	quick, end := context.WithTimeout(ctx, tellTime)
	defer end()
	if !p.until(quick, safe(true)) {
		p.mu.Unlock()
		p.until(ctx, safe(false))
	}
	defer p.mu.Unlock()
	for i, r := range records {
		if r != nil && p.ownedLocked(r) && p.copiedLocked(r) >= versions[i] {
			answers[i] = wordAnswer{true, r.change}
		}
	}
	return answers
}

// copiedLocked is the version that would survive this node.
func (p *Presence) copiedLocked(r *record) uint64 {
	switch _, deputy := p.view.place(r.hash); deputy {
	case "": // nobody would
		return r.version
	case r.deputy:
		return r.copied
	}
	return 0
}

// changedLocked gives the record a new version, and does what follows from it.
func (p *Presence) changedLocked(r *record) {
	if p.o.OnDevice == nil {
		r.forget()
	}
	r.version = p.nextVersionLocked()
	p.evaluateLocked(r)
}

// firstWords is for how long nobody goes offline when this node has begun to decide: words that had to wait for that
// come first.
const firstWords = 300 * time.Millisecond

// evaluateLocked decides what a user is by the devices that it has. This node owns it.
func (p *Presence) evaluateLocked(r *record) {
	present := r.present()
	if present > 0 || !r.change.online {
		r.emptied = time.Time{}
		r.stopTimer()
	}
	switch {
	case !r.change.settled(): // one change at a time
	case present > 0 && !r.change.online:
		p.decideLocked(r, true)
	case present == 0 && r.change.online:
		if r.emptied.IsZero() {
			r.emptied = time.Now()
		}
		left := max(p.o.Grace-time.Since(r.emptied), firstWords-time.Since(p.decides))
		if left <= 0 || p.lastLocked() {
			p.decideLocked(r, false)
		} else if r.timer == nil {
			r.timer = time.AfterFunc(left, func() { p.graceOver(r) }) // it does not wait; end stops it
		}
	}
	p.settleLocked(r)
}

func (p *Presence) decideLocked(r *record, online bool) {
	r.stopTimer()
	r.emptied = time.Time{}
	r.version = p.nextVersionLocked()
	r.change = change{number: r.version, online: online}
}

// lastLocked reports whether this node is about to end, and so are all that could tell of its users then.
func (p *Presence) lastLocked() bool { return p.ending && p.view != nil && p.view.ending }

func (p *Presence) graceOver(r *record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.timer = nil
	if p.up && p.records[r.key] == r && p.ownedLocked(r) {
		p.evaluateLocked(r)
	}
}

// settleLocked has the deputy get the record, and has what follows from it told once it has.
func (p *Presence) settleLocked(r *record) {
	if p.copiedLocked(r) < r.version {
		p.copies.pushLocked(r)
		return
	}
	if !r.working && (!r.change.settled() || len(r.untold()) > 0) {
		r.working = true
		p.ready = append(p.ready, r)
		if p.workers < p.o.Workers && p.work.Begin() {
			p.workers++
			go p.serve() // Run waits for it
		}
	}
	p.idleLocked(r)
}

// serve runs hooks until there is nothing to be told.
func (p *Presence) serve() {
	defer p.work.End()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.ready) > 0 && p.up {
		r := p.ready[0]
		p.ready = p.ready[1:]
		if !p.ownedLocked(r) || p.copiedLocked(r) < r.version { // it comes again when it is
			r.working = false
			if p.ownedLocked(r) {
				p.settleLocked(r)
			}
			continue
		}
		told, devices := r.change, r.untold()
		p.running++
		p.mu.Unlock()
		p.tellHooks(r.key, told, devices)
		p.mu.Lock()
		p.running--
		r.working = false
		p.toldLocked(r, told, devices)
	}
	p.workers--
	p.turnLocked()
}

// toldLocked notes what has been told. The node may not be the owner any more: then the next one is told so.
func (p *Presence) toldLocked(r *record, told change, devices []device) {
	if r.change.number == told.number {
		r.change.told = true
	}
	for _, d := range devices {
		at := slices.IndexFunc(r.devices, func(o device) bool { return o.came == d.came && o.id == d.id && o.node == d.node })
		switch {
		case at < 0:
		case d.went != 0:
			r.devices = slices.Delete(r.devices, at, at+1)
		default:
			r.devices[at].flags |= deviceTold
		}
	}
	r.version = p.nextVersionLocked()
	if p.ownedLocked(r) {
		p.evaluateLocked(r)
	}
	p.turnLocked()
}

// tellHooks tells what has happened, in an order in which it can have happened.
func (p *Presence) tellHooks(key string, c change, devices []device) {
	namespace, user := p.splitKey(key)
	change := func(online bool) {
		if c.settled() || c.online != online {
			return
		}
		e := Event{namespace, user, c.online, key + "#" + strconv.FormatUint(c.number, 36)}
		p.mu.Lock()
		watchers := p.watchers
		p.mu.Unlock()
		for _, f := range watchers {
			f(e)
		}
		if p.o.OnChange != nil {
			p.hook(key, func(ctx context.Context) { p.o.OnChange(ctx, e) })
		}
	}
	device := func(d device, gone bool, version uint64) {
		p.hook(key, func(ctx context.Context) {
			p.o.OnDevice(ctx, DeviceEvent{
				Namespace: namespace, User: user, Socket: d.id, Node: p.member(d.node), Since: time.Unix(0, d.since), Gone: gone,
				NodeGone: gone && d.flags&deviceNodeGone != 0, Expired: d.why, ID: key + "#" + d.id + "#" + strconv.FormatUint(version, 36),
			})
		})
	}
	for _, d := range devices {
		if p.o.OnDevice == nil || d.went == 0 || d.waits() {
			continue
		}
		if d.flags&deviceTold == 0 {
			device(d, false, d.came<<2)
		}
		device(d, true, d.went<<2|1)
	}
	for _, d := range devices { // of what several nodes have said, the end of a session is the last
		if p.o.OnDevice != nil && d.why != "" {
			device(d, true, d.went<<2|2)
		}
	}
	change(false)
	for _, d := range devices {
		if p.o.OnDevice != nil && d.went == 0 && d.flags&deviceTold == 0 {
			device(d, false, d.came<<2)
		}
	}
	change(true)
}

// hook calls f, and survives its panic.
func (p *Presence) hook(key string, f func(context.Context)) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("a presence hook panicked", "user", key, "panic", v)
		}
	}()
	f(p.hooks)
}

// member is the node with the given tag, as far as it is known.
func (p *Presence) member(tag string) cluster.Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range slices.Backward(p.past) {
		if m, ok := v.nodes[tag]; ok {
			return m
		}
	}
	return cluster.Member{Tag: tag}
}

// idleLocked notes since when a user is offline.
func (p *Presence) idleLocked(r *record) {
	if len(r.devices) > 0 || r.change.online || !r.change.settled() {
		r.idleFrom = time.Time{}
	} else if r.idleFrom.IsZero() {
		r.idleFrom = time.Now()
		p.dying = true
	}
}

// spareTime is for how long a record is kept by a node that is not its owner or deputy any more, after the owner
// has pulled: by then it has given it to its deputy.
const spareTime = 10 * time.Second

// spareLocked reports whether a record is of no use to this node.
func (p *Presence) spareLocked(r *record) bool {
	owner, deputy := p.view.place(r.hash)
	at, pulled := p.pulled[owner]
	return owner != p.tag && deputy != p.tag && pulled && time.Since(at) > spareTime
}

const sweepInterval = 10 * time.Second

// sweepLocked drops records that are of no use.
func (p *Presence) sweepLocked() {
	spares := !p.spareFrom.IsZero() && time.Since(p.spareFrom) > spareTime
	if p.view == nil || !spares && (!p.dying || time.Since(p.swept) < sweepInterval) {
		return
	}
	p.swept, p.dying = time.Now(), false
	if spares {
		p.spareFrom = time.Time{}
	}
	for key, r := range p.records {
		switch {
		case r.working || r.queued:
			p.dying = true
		case p.spareLocked(r) || !r.idleFrom.IsZero() && time.Since(r.idleFrom) > remembrance:
			r.stopTimer()
			delete(p.records, key)
		case !r.idleFrom.IsZero():
			p.dying = true
		}
	}
	p.sweepFeedsLocked()
}
