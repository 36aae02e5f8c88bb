package presence

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"sort"

	"tether/cluster"
	"tether/internal/wire"
)

// stay is what this node shows in a room: its own sockets. Other nodes whose sockets watch the room have a feed each, and
// are told of changes. Changes of a node are numbered. All is guarded by the presence's mu.
type stay struct {
	key   string
	seats int                // also those that are not shown
	names map[string][]*seat // that are shown
	feeds map[string]*feed   // by the tag of the node that watches
	log   []noted            // changes that a feed may not have, in the order of their numbers
	floor uint64             // the log has all changes above this number
}

type noted struct {
	number uint64
	name   string
	ended  bool // it has gone with its socket, and may come back
}

// maxNoted is how long a log gets beside the number of members. A node that is behind what has been dropped asks for the
// whole.
const maxNoted = 4096

func (p *Presence) stayLocked(key string) *stay {
	st := p.stays[key]
	if st == nil {
		st = &stay{key: key, names: make(map[string][]*seat), feeds: make(map[string]*feed), floor: p.noted}
		p.stays[key] = st
	}
	return st
}

// dropStayLocked forgets a room that nobody here is in, and nobody watches.
func (p *Presence) dropStayLocked(st *stay) {
	if st.seats == 0 && len(st.feeds) == 0 && p.stays[st.key] == st {
		delete(p.stays, st.key)
	}
}

// now is what is shown under a name: what the last device has said.
func (st *stay) now(name string) (s seen, ok bool) {
	for _, at := range st.names[name] {
		if !ok || at.since > s.since {
			s, ok = at.seen, true
		}
	}
	return s, ok
}

// noteLocked notes a change, and has the nodes that watch be told. Without such nodes there is nothing to do.
func (p *Presence) noteLocked(st *stay, name string, ended bool) {
	p.noted++
	if len(st.feeds) == 0 {
		st.floor = p.noted
		return
	}
	st.log = append(st.log, noted{p.noted, name, ended})
	if most := maxNoted + 2*len(st.names); len(st.log) > most {
		st.floor = st.log[most/2].number
		st.log = slices.Delete(st.log, 0, most/2+1)
	}
	p.changed[st] = struct{}{}
	if !p.gathering && p.work.Begin() {
		p.gathering = true
		go p.gather() // Run waits for it
	}
}

// gather has all changes of an interval be told together.
func (p *Presence) gather() {
	defer p.work.End()
	wait(p.hooks, p.o.RoomInterval)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gathering = false
	for st := range p.changed {
		for _, f := range st.feeds {
			p.feeds.pushLocked(f)
		}
	}
	clear(p.changed)
}

func (st *stay) last() uint64 {
	if len(st.log) == 0 {
		return st.floor
	}
	return st.log[len(st.log)-1].number
}

// trim drops what all feeds have.
func (st *stay) trim() {
	least := st.last()
	for _, f := range st.feeds {
		least = min(least, f.sent)
	}
	if n := sort.Search(len(st.log), func(i int) bool { return st.log[i].number > least }); n > 0 {
		st.floor = st.log[n-1].number
		st.log = slices.Delete(st.log, 0, n)
	}
}

// excerpt is what a node shows in a room: all, or what has changed.
//
//	text     key of the room
//	uvarint  after this change,
//	uvarint  and up to this one
//	byte     flags
//	uvarint  number of names, and of each a text, a byte, and if it is there, a text and a number
type excerpt struct {
	key         string
	after, upto uint64
	flags       byte
	names       []shown
}

const (
	excerptWhole byte = 1 << iota // all that is shown there
	excerptMore                   // more of the same follows
)

// shown is what is said of a name.
type shown struct {
	name  string
	state byte
	seen
}

const (
	stateLeft  byte = iota
	stateEnded      // its socket has ended, and may come back
	stateHere
)

func (x *excerpt) append(dst []byte) []byte {
	dst = binary.AppendUvarint(binary.AppendUvarint(wire.AppendText(dst, x.key), x.after), x.upto)
	dst = binary.AppendUvarint(append(dst, x.flags), uint64(len(x.names)))
	for _, n := range x.names {
		if dst = append(wire.AppendText(dst, n.name), n.state); n.state == stateHere {
			dst = binary.AppendVarint(wire.AppendText(dst, n.data), n.since)
		}
	}
	return dst
}

func readExcerpt(r *reader) (x excerpt) {
	x.key, x.after, x.upto, x.flags = r.text(), r.Uvarint(), r.Uvarint(), r.Byte()
	for range r.Count() {
		n := shown{name: r.text(), state: r.Byte()}
		if n.state == stateHere {
			n.seen = seen{r.text(), r.Varint()}
			if n.data != "" && !json.Valid([]byte(n.data)) {
				r.Fail()
			}
		}
		if r.Bad {
			break
		}
		x.names = append(x.names, n)
	}
	return x
}

func (n *shown) size() int { return len(n.name) + len(n.data) + 12 }

// answerRooms says what this node shows in rooms. A node that says its tag is told, from then on, what changes. The
// rooms behind an empty key it watches no more.
func (p *Presence) answerRooms(ctx context.Context, q *cluster.Request) error {
	return p.tellRooms(q.Body, func(page []byte) error { return q.Send(ctx, page) })
}

func (p *Presence) tellRooms(body []byte, send func(page []byte) error) error {
	r := read(body)
	if r.Byte() != wireVersion {
		return errVersion
	}
	asker := r.text()
	var keys []string
	for r.More() {
		keys = append(keys, r.text())
	}
	if r.Bad {
		return errMalformed
	}
	var page []byte
	for i, key := range keys {
		if key == "" {
			p.probe(keys[i+1:], asker)
			break
		}
		f, list, err := p.wholeOf(key, asker)
		if err != nil {
			return err
		}
		if f != nil {
			defer p.openFeed(f)
		}
		for i := range list {
			if page = list[i].append(page); len(page) < batchBytes {
				continue
			}
			if err := send(page); err != nil {
				return err
			}
			page = nil
		}
	}
	return send(page)
}

// probe asks a node whether it still watches rooms: it may have asked for them again since it said that it does not.
func (p *Presence) probe(keys []string, asker string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range keys {
		if st := p.stays[key]; st != nil && st.feeds[asker] != nil {
			f := st.feeds[asker]
			f.probe = true
			p.feeds.pushLocked(f)
		}
	}
}

// wholeOf is all that is shown in a room, in parts, and the feed of a node that asks for one.
func (p *Presence) wholeOf(key, asker string) (f *feed, list []excerpt, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.stays[key]
	if asker != "" {
		if p.view == nil {
			return nil, nil, errAsker
		}
		if _, known := p.view.nodes[asker]; !known {
			return nil, nil, errAsker
		}
		st = p.stayLocked(key)
		if f = st.feeds[asker]; f == nil {
			f = &feed{stay: st, to: asker, sent: p.noted}
			st.feeds[asker] = f
		} // else this may be a late repetition, and the answer may not be taken
		f.busy = true
		f.asks++
	}
	x := excerpt{key: key, upto: p.noted, flags: excerptWhole | excerptMore}
	size := 0
	if st != nil {
		for name := range st.names {
			n := shown{name: name, state: stateHere}
			n.seen, _ = st.now(name)
			x.names = append(x.names, n)
			if size += n.size(); size >= batchBytes {
				list = append(list, x)
				x.names, size = nil, 0
			}
		}
	}
	x.flags = excerptWhole
	return f, append(list, x), nil
}

// openFeed lets a node be told what has changed since it began to be told the whole.
func (p *Presence) openFeed(f *feed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.busy = false
	if f.behind() {
		p.feeds.pushLocked(f)
	}
}
