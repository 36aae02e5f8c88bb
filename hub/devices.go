package hub

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"time"

	"tether/cluster"
)

// The device limit. A socket that registers joins the user's room first and then asks that room, on
// all nodes, which others are registered: a census. Registrations have an order: that of their stamps, the
// times at which they were made, and of the socket IDs where two stamps are equal.
//
// A registration that is through is ahead of every one that is not, whatever the clocks say, and a socket
// that sees one takes a later stamp.
//
// By default: each registration disconnects the oldest of those that it sees, beyond the limit. The one
// with the last stamp sees all the others, so no more than the limit stay. A socket that is to go may have
// seen the other as through meanwhile, and have become newer: then it stays, and the other goes. So at
// least the one with the last stamp stays.
//
// RefuseNew: of two sockets that register at the same time, the one whose question is later is seen by
// the other's node, which notes it down for the other: so each pair has one that knows of the other. So
// of the registrations that stay, the one with the last stamp knows all the others, and it stays only if
// there is room for it. (Two that race for the last place may both be refused if their clocks differ;
// they are never both let in.)

const (
	censusTimeout = 2 * time.Second
	maxClaims     = 1 << 16 // in one answer
)

// devices is a hub's part in all censuses: the registrations of this node that are not through yet.
type devices struct {
	mu    sync.Mutex
	rooms map[string][]*census // guarded by mu; by the room's subject
}

func newDevices() devices { return devices{rooms: make(map[string][]*census)} }

// open must be called before the socket joins the room: until close, its registration is not through.
func (d *devices) open(s *Socket, room string, stamp int64) *census {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &census{socket: s, id: s.ID(), room: room, stamp: stamp, others: make(map[string]claim)}
	d.rooms[room] = append(d.rooms[room], c)
	return c
}

func (d *devices) close(c *census) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closeLocked(c)
}

func (d *devices) closeLocked(c *census) {
	rest := slices.DeleteFunc(d.rooms[c.room], func(o *census) bool { return o == c })
	if len(rest) > 0 {
		d.rooms[c.room] = rest
	} else {
		delete(d.rooms, c.room)
	}
}

// admit asks the cluster and decides.
func (d *devices) admit(ctx context.Context, h *Hub, c *census) error {
	if err := d.ask(ctx, h, c); err != nil {
		return err
	}
	evicted, err := d.decide(c, h.options.Devices)
	if err != nil {
		return err
	}
	if len(evicted) == 0 {
		return nil
	}
	_, err = h.broker.Publish(ctx, c.evictions(h.options.Prefix, evicted)...)
	return err
}

// evictIfOlder disconnects s if another registration, which is through, is newer than that of s.
func (h *Hub) evictIfOlder(s *Socket, body []byte) {
	stamp, width := binary.Varint(body)
	id, body, ok := cutText(body[max(width, 0):])
	room, rest, all := cutText(body)
	if width <= 0 || !ok || !all || len(rest) > 0 {
		h.count(errEnvelopeMalformed)
		return
	}
	if h.devices.evict(s, string(room), stamp, string(id)) {
		s.Disconnect(true)
	}
}

// evict reports whether s has to go. If it is not through it will not be.
func (d *devices) evict(s *Socket, room string, stamp int64, id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	own := s.stamp(room)
	if own == 0 || own > stamp || own == stamp && s.ID() >= id {
		return false
	}
	for _, c := range d.rooms[room] {
		if c.socket == s {
			c.evicted = true
		}
	}
	return true
}

// ask asks which others are registered. What nodes that do not answer would have said is not known.
func (d *devices) ask(ctx context.Context, h *Hub, c *census) error {
	asking, cancel := context.WithTimeout(ctx, censusTimeout)
	defer cancel()
	body := appendText(appendText(nil, c.room), c.id)
	body = binary.AppendVarint(body, c.stamp)
	answers := h.cluster.Ask(asking, cluster.Question{Topic: topicDevices, Body: body, Subject: c.room})
	for _, page := range answers.Pages {
		if claims, ok := parseClaims(page); ok {
			d.learn(c, claims)
		} else {
			h.count(errEnvelopeMalformed)
		}
	}
	if err := answers.Err(); err != nil {
		return err
	}
	return ctx.Err()
}

func (d *devices) learn(c *census, claims map[string]claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, o := range claims {
		if id != c.id {
			c.learn(id, o)
		}
	}
}

// decide returns the sockets that have to go, or ErrTooManyDevices. Without an error the registration is
// through.
func (d *devices) decide(c *census, limit Devices) (evicted []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.evicted {
		return nil, ErrTooManyDevices
	}
	type ranked struct {
		id    string
		late  int // 0 for a registration that is through
		stamp int64
	}
	me := ranked{c.id, 1, c.stamp}
	all := []ranked{me}
	for id, o := range c.others {
		r := ranked{id, 1, o.stamp}
		if o.through {
			r.late = 0
			c.stamp = max(c.stamp, o.stamp+1)
		}
		all = append(all, r)
	}
	me.stamp, all[0].stamp = c.stamp, c.stamp
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.late, b.late), cmp.Compare(a.stamp, b.stamp), strings.Compare(a.id, b.id))
	})
	rank := slices.Index(all, me)
	excess := max(len(all)-limit.Max, 0)
	if limit.RefuseNew {
		if rank >= limit.Max {
			return nil, ErrTooManyDevices
		}
	} else if rank < excess {
		return nil, ErrTooManyDevices // others that came at the same time are newer
	} else {
		for _, r := range all[:excess] {
			evicted = append(evicted, r.id)
		}
	}
	c.socket.restamp(c.room, c.stamp)
	d.closeLocked(c) // with the lock still held: from here on it is through
	return evicted, nil
}

// restamp sets the time of a registration.
func (s *Socket) restamp(room string, stamp int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.State() == stateGone {
		return
	}
	if i := s.placeLocked(room); i >= 0 {
		s.rooms[i].since = stamp
	}
}

// stamp is the time of a registration, 0 if there is none.
func (s *Socket) stamp(room string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.placeLocked(room); i >= 0 {
		return s.rooms[i].since
	}
	return 0
}
