package presence

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/internal/wire"
)

// holding is what this node holds of a user: its devices here, and what the owner has not confirmed yet. All is
// guarded by the presence's mu.
type holding struct {
	key       string
	hash      uint64 // of the key
	devices   []held // in the order of their numbers
	number    uint64 // of the last change
	confirmed uint64 // changes up to this number have reached the owner, and its deputy
	known     change // what the owner has said last
	queued    bool
}

// held is a device of this node, or a session that waits for one to come back. Changes of a node are numbered, so that a
// late word about one means nothing.
type held struct {
	socket *hub.Socket
	since  int64 // UnixNano
	number uint64
	flags  deviceFlags
	why    hub.Reason // of a session that is gone: "" if it goes on elsewhere
}

func (d *held) is(flags deviceFlags) bool { return d.flags&flags != 0 }

// change is a change of a user's: that it is online, or is not.
type change struct {
	number uint64 // a version; see there. 0: there was none
	online bool
	told   bool // OnChange has been told of it
}

// settled reports whether there is nothing to be told.
func (c change) settled() bool { return c.told || c.number == 0 }

func (h *holding) presentLocked() []held {
	return slices.DeleteFunc(slices.Clone(h.devices), func(d held) bool { return d.is(deviceGone | deviceWaits) })
}

func (h *holding) inQueue() *bool { return &h.queued }

func (h *holding) dirty() bool { return h.number > h.confirmed }

// told is told by the hub that it may have changed whether a socket is a user's or in a room, or, with the zero target,
// that it has ended.
func (p *Presence) told(s *hub.Socket, to hub.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch to {
	case hub.Target{}:
		p.endedLocked(s)
		p.overLocked(s)
	case hub.Room(to.Name()):
		p.movedLocked(s, to)
	default:
		p.registeredLocked(s, to)
	}
}

// registeredLocked looks whether a socket is a user's.
func (p *Presence) registeredLocked(s *hub.Socket, user hub.Target) {
	key := s.Namespace().Emitter().Subject(user)
	since, in, kept, _ := s.Registered(user) // with the lock held, so that the last look is the last word
	h := p.holdings[key]
	at := -1
	if h != nil {
		at = slices.IndexFunc(h.devices, func(d held) bool { return d.socket == s && !d.is(deviceGone|deviceWaits) })
	}
	switch {
	case in == (at >= 0):
	case in:
		p.overLocked(s)
		p.holdLocked(key, held{socket: s, since: since.UnixNano(), flags: deviceFlags(flag(kept, byte(deviceKept)))})
	default:
		p.letGoLocked(h, at, "")
	}
	if !in && kept && !since.IsZero() {
		p.waitLocked(key, s, since) // in the same word
	}
}

// holdLocked notes what is held of a user.
func (p *Presence) holdLocked(key string, d held) *holding {
	h := p.holdings[key]
	if h == nil {
		h = &holding{key: key, hash: hashKey(key)}
		p.holdings[key] = h
	}
	p.number++
	d.number, h.number = p.number, p.number
	h.devices = append(h.devices, d)
	p.pushWordLocked(h)
	return h
}

// letGoLocked notes that what is held at a place is gone.
func (p *Presence) letGoLocked(h *holding, at int, why hub.Reason) {
	d := h.devices[at]
	d.flags, d.why = d.flags|deviceGone, why
	h.devices = slices.Delete(h.devices, at, at+1)
	p.holdLocked(h.key, d)
}

// pushWordLocked has the owner told. Where nobody owns users, nobody has to know.
func (p *Presence) pushWordLocked(h *holding) {
	if p.view != nil && len(p.view.owners) == 0 {
		p.confirmLocked(h, h.number, change{})
		return
	}
	p.words.pushLocked(h)
}

// confirmLocked notes that changes up to a number need not be kept any more.
func (p *Presence) confirmLocked(h *holding, number uint64, known change) {
	h.confirmed = max(h.confirmed, number)
	h.devices = slices.DeleteFunc(h.devices, func(d held) bool { return d.is(deviceGone) && d.number <= number })
	if known.number >= h.known.number {
		h.known = known
	}
	p.term = max(p.term, termOf(known.number))
	if len(h.devices) == 0 && !h.dirty() && p.holdings[h.key] == h {
		delete(p.holdings, h.key)
	}
}

func (p *Presence) routeWord(h *holding) string {
	if p.view == nil {
		return ""
	}
	return p.view.owner(h.hash)
}

const (
	askTimeout = 5 * time.Second // of a question to an owner or a deputy
	waitLimit  = time.Second     // that an answer waits for this node to get ready
)

var errVersion = errors.New("presence: this node speaks another version")

// sendWords tells an owner what has changed. It returns those that have to be told again.
func (p *Presence) sendWords(ctx context.Context, to string, list []*holding) (again []*holding) {
	for len(list) > 0 {
		w := word{from: p.tag}
		p.mu.Lock()
		n := 0
		for ; n < len(list) && w.size < batchBytes; n++ {
			w.add(list[n], list[n].confirmed)
		}
		p.mu.Unlock()
		answers := p.tell(ctx, to, &w)
		p.mu.Lock()
		for i, h := range list[:n] {
			if i < len(answers) && answers[i].taken {
				p.confirmLocked(h, w.users[i].number, answers[i].known)
			} else {
				again = append(again, h)
			}
		}
		p.turnLocked()
		p.mu.Unlock()
		list = list[n:]
	}
	return again
}

// tell puts a word to its owner, which may be this node.
func (p *Presence) tell(ctx context.Context, to string, w *word) []wordAnswer {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if to == p.tag {
		return p.takeWord(ctx, w)
	}
	asking := p.node.Ask(ctx, cluster.Question{Topic: topicWord, Body: w.append(nil), To: to})
	var answers []wordAnswer
	for _, page := range asking.Pages {
		answers = append(answers, readWordAnswers(page)...)
	}
	return answers
}

// word is what a node says of its users to their owner: what has changed, or all.
type word struct {
	from  string
	users []wordUser
	size  int // in bytes, about
}

type wordUser struct {
	key     string
	number  uint64 // the node's last change of this user
	known   change // what it has been told last
	devices []wordDevice
}

type wordDevice struct {
	id     string
	since  int64
	number uint64
	flags  deviceFlags
	why    hub.Reason
}

// add adds the devices of h that have changed after the given number.
func (w *word) add(h *holding, after uint64) {
	u := wordUser{key: h.key, number: h.number, known: h.known}
	for _, d := range h.devices {
		if d.number > after {
			u.devices = append(u.devices, wordDevice{d.socket.ID(), d.since, d.number, d.flags, d.why})
		}
	}
	w.users = append(w.users, u)
	w.size += 24 + len(h.key) + 40*len(u.devices)
}

func (w *word) append(dst []byte) []byte {
	dst = wire.AppendText(append(dst, wireVersion), w.from)
	for i := range w.users {
		dst = w.users[i].append(dst)
	}
	return dst
}

func (u *wordUser) append(dst []byte) []byte {
	dst = u.known.append(binary.AppendUvarint(wire.AppendText(dst, u.key), u.number))
	dst = binary.AppendUvarint(dst, uint64(len(u.devices)))
	for _, d := range u.devices {
		dst = binary.AppendVarint(wire.AppendText(dst, d.id), d.since)
		dst = append(binary.AppendUvarint(dst, d.number), byte(d.flags))
		dst = wire.AppendText(dst, string(d.why))
	}
	return dst
}

func readWordUser(r *reader) (u wordUser) {
	u.key, u.number, u.known = r.text(), r.Uvarint(), readChange(r)
	for range r.Count() {
		u.devices = append(u.devices, wordDevice{r.text(), r.Varint(), r.Uvarint(), deviceFlags(r.Byte()), hub.Reason(r.text())})
	}
	return u
}

// wordAnswer is what an owner says to a word about a user.
type wordAnswer struct {
	taken bool
	known change
}

func readWordAnswers(page []byte) (list []wordAnswer) {
	for r := read(page); r.More(); {
		list = append(list, wordAnswer{r.Byte() == 1, readChange(&r)})
	}
	return list
}

const (
	changeOnline byte = 1 << iota
	changeTold
)

func (c change) append(dst []byte) []byte {
	return append(binary.AppendUvarint(dst, c.number), flag(c.online, changeOnline)|flag(c.told, changeTold))
}

func readChange(r *reader) change {
	number, flags := r.Uvarint(), r.Byte()
	return change{number, flags&changeOnline != 0, flags&changeTold != 0}
}

func flag(set bool, f byte) byte {
	if set {
		return f
	}
	return 0
}
