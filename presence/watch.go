package presence

import (
	"context"
	"maps"
	"slices"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/internal/wire"
)

// watched is a room that sockets of this node watch: what all nodes show there, put together. All is guarded by the
// presence's mu.
type watched struct {
	key      string
	room     hub.Target
	emitter  *hub.Emitter // to sockets of this node
	since    time.Time
	watchers map[*hub.Socket]*watcher
	parts    map[string]*part // of each node, by tag

	told      map[string]string    // data of the members that watchers know
	unknown   []string             // nodes, as they know them
	changed   map[string]struct{}  // names to be looked at
	lingering map[string]time.Time // until when a name stays whose socket has ended

	serving bool          // a goroutine does
	news    chan struct{} // one token for it
	next    time.Time     // when watchers may be told again
}

// watcher is a socket that watches.
type watcher struct {
	joining bool     // it may not get what changes yet
	begun   bool     // it has been sent the first of the whole
	rest    []string // names that it has not been sent yet
}

// part is what a node shows in a room.
type part struct {
	room   *watched
	tag    string
	heard  uint64 // the node's last change that is known of
	known  bool   // names is what it shows since then
	failed bool   // it was asked in vain
	names  map[string]seen
	ended  bool // nobody watches the room here any more, and the node has to know
	queued bool
}

func (t *part) inQueue() *bool { return &t.queued }

// roomPatience is how long sockets that begin to watch wait for nodes that do not answer.
const roomPatience = time.Second

func (p *Presence) watchLocked(s *hub.Socket, room hub.Target) {
	e := s.Namespace().Emitter()
	key := e.Subject(room)
	w := p.watched[key]
	if w == nil {
		w = &watched{
			key: key, room: room, emitter: e.Local().Overflow(hub.CloseSlow), since: time.Now(), watchers: make(map[*hub.Socket]*watcher),
			parts: make(map[string]*part), told: make(map[string]string), changed: make(map[string]struct{}),
			unknown: []string{}, lingering: make(map[string]time.Time), news: make(chan struct{}, 1),
		}
		p.watched[key] = w
		p.meetLocked(w)
	}
	if w.watchers[s] == nil {
		p.watching[s] = append(p.watching[s], key)
	}
	w.watchers[s] = &watcher{joining: true}
}

// joinedLocked is told that a socket gets what changes in the room with a key.
func (p *Presence) joinedLocked(s *hub.Socket, key string) {
	if w := p.watched[key]; w != nil && w.watchers[s] != nil {
		w.watchers[s].joining = false
		p.kickLocked(w)
	}
}

// unwatchLocked ends a socket's watch of the room with a key.
func (p *Presence) unwatchLocked(s *hub.Socket, key string) {
	list := slices.DeleteFunc(p.watching[s], func(k string) bool { return k == key })
	if p.watching[s] = list; len(list) == 0 {
		delete(p.watching, s)
	}
	p.unseatLocked(s, key)
}

// unseatLocked forgets a watcher, and with the last one the room: then the other nodes are told.
func (p *Presence) unseatLocked(s *hub.Socket, key string) {
	w := p.watched[key]
	if w == nil {
		return
	}
	if delete(w.watchers, s); len(w.watchers) == 0 {
		delete(p.watched, key)
		p.kickLocked(w)
		for _, t := range w.parts {
			t.ended = true
			p.parts.pushLocked(t)
		}
	}
}

// meetLocked compares the nodes of a room with the view. Of a new one all is asked; the members on one that has gone
// stay for the grace.
func (p *Presence) meetLocked(w *watched) {
	if p.view == nil {
		return
	}
	if len(w.parts) == 0 {
		w.since = time.Now()
	}
	for tag := range p.view.nodes {
		t := w.parts[tag]
		if t == nil {
			t = &part{room: w, tag: tag, names: make(map[string]seen)}
			w.parts[tag] = t
		}
		if !t.known {
			p.parts.pushLocked(t)
		}
	}
	for tag, t := range w.parts {
		if _, lives := p.view.nodes[tag]; !lives {
			delete(w.parts, tag)
			for name := range t.names {
				p.goneLocked(w, name, stateEnded)
			}
		}
	}
	p.kickLocked(w)
}

// goneLocked notes that a node does not show a name any more.
func (p *Presence) goneLocked(w *watched, name string, state byte) {
	if delete(w.lingering, name); state == stateEnded {
		w.lingering[name] = time.Now().Add(p.o.Grace)
	}
	w.changed[name] = struct{}{}
}

// viewedLocked follows another view. After an absence the others may have given this node up: then it has to ask all of them.
func (p *Presence) viewedLocked(absent bool) {
	for _, w := range p.watched {
		if absent {
			w.since = time.Now()
			for _, t := range w.parts {
				t.known = false
			}
		}
		p.meetLocked(w)
	}
	for _, st := range p.stays {
		for tag, f := range st.feeds {
			_, lives := p.view.nodes[tag]
			switch {
			case lives:
				f.lost = time.Time{}
				p.feeds.pushLocked(f)
			case f.lost.IsZero(): // perhaps for this node alone: then that one does not ask again when it is back
				f.lost, p.dying = time.Now(), true
			}
		}
	}
}

// sweepFeedsLocked ends the feeds of nodes that have gone for good.
func (p *Presence) sweepFeedsLocked() {
	for _, st := range p.stays {
		for _, f := range st.feeds {
			switch {
			case f.lost.IsZero():
			case time.Since(f.lost) > remembrance:
				p.unfeedLocked(f)
			default:
				p.dying = true
			}
		}
	}
}

func (p *Presence) routePart(t *part) string {
	switch now := p.watched[t.room.key]; {
	case p.view == nil:
		return ""
	case t.ended && now != nil: // again
		return ""
	case !t.ended && (t.known || now != t.room || now.parts[t.tag] != t):
		return ""
	}
	if m, there := p.view.nodes[t.tag]; !there || t.tag != p.tag && !m.Answers(topicRooms) {
		return ""
	}
	return t.tag
}

// sendRooms asks a node what it shows in rooms, and tells it which ones are not watched any more. It returns those
// of which that is not known.
func (p *Presence) sendRooms(ctx context.Context, to string, list []*part) (again []*part) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var asks, ends []*part
	p.mu.Lock()
	for _, t := range list {
		if t.ended {
			ends = append(ends, t)
		} else {
			asks = append(asks, t)
		}
	}
	p.mu.Unlock()
	for all, at := slices.Concat(asks, ends), 0; at < len(all); {
		body, begin := wire.AppendText([]byte{wireVersion}, p.tag), at
		for ; at < len(all) && len(body) < batchBytes; at++ {
			if at >= len(asks) && at == max(begin, len(asks)) {
				body = wire.AppendText(body, "")
			}
			body = wire.AppendText(body, all[at].room.key)
		}
		if !p.askRooms(ctx, to, body) {
			again = append(again, all[min(max(begin, len(asks)), at):at]...)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range asks {
		if !t.known {
			again = append(again, t)
			t.failed = true
			p.kickLocked(t.room)
		}
	}
	return again
}

// askRooms reports false if the node has not answered.
func (p *Presence) askRooms(ctx context.Context, to string, body []byte) bool {
	got := make(map[string][]shown)
	if to == p.tag {
		return p.tellRooms(body, func(page []byte) error { p.takeWholes(to, page, got); return nil }) == nil
	}
	asking := p.node.Ask(ctx, cluster.Question{Topic: topicRooms, Body: body, To: to})
	for _, page := range asking.Pages {
		p.takeWholes(to, page, got)
	}
	return asking.Err() == nil && len(asking.Missing()) == 0
}

// kickLocked has a room's watchers be told what there is to tell.
func (p *Presence) kickLocked(w *watched) {
	select {
	case w.news <- struct{}{}:
	default:
	}
	if !w.serving && p.work.Begin() {
		w.serving = true
		go p.serveRoom(w) // Run waits for it
	}
}

// nowLocked is what is shown under a name: what the last device has said, on whichever node.
func (w *watched) nowLocked(name string) (s seen, ok bool) {
	for _, t := range w.parts {
		if o, here := t.names[name]; here && (!ok || o.since > s.since) {
			s, ok = o, true
		}
	}
	return s, ok
}

// unknownLocked are the names of the nodes of which nothing is known yet.
func (w *watched) unknownLocked(v *view) (names []string, settled bool) {
	settled = true
	for tag, t := range w.parts {
		if t.known {
			continue
		}
		settled = settled && t.failed
		names = append(names, v.nodes[tag].Name)
	}
	slices.Sort(names)
	return names, settled || time.Since(w.since) >= roomPatience
}

// changeLocked is what is news to the watchers. A time is when there may be more; zero: when something happens.
func (w *watched) changeLocked(now time.Time) (c RoomChange, again time.Time) {
	c.Room = w.room.Name()
	for name := range w.changed {
		s, here := w.nowLocked(name)
		data, was := w.told[name]
		if until := w.lingering[name]; !here && was && now.Before(until) {
			if again.IsZero() || until.Before(again) {
				again = until
			}
			continue
		}
		delete(w.changed, name)
		delete(w.lingering, name)
		switch {
		case here && (!was || data != s.data):
			w.told[name] = s.data
			c.Came = append(c.Came, s.member(name))
		case !here && was:
			delete(w.told, name)
			c.Left = append(c.Left, name)
		}
	}
	sortMembers(c.Came)
	slices.Sort(c.Left)
	return c, again
}

// pageLocked is the next part of the whole for a watcher.
func (w *watched) pageLocked(k *watcher) RoomChange {
	c := RoomChange{Room: w.room.Name()}
	if !k.begun {
		k.begun = true
		k.rest = slices.Sorted(maps.Keys(w.told))
		c.Whole, c.Unknown = true, w.unknown
	}
	n, size := 0, 0
	for ; n < len(k.rest) && size < batchBytes; n++ {
		name := k.rest[n]
		if data, here := w.told[name]; here {
			m := seen{data: data}.member(name)
			c.Came = append(c.Came, m)
			size += len(name) + len(data) + 20
		}
	}
	k.rest = k.rest[n:]
	return c
}
