package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Join puts the socket into rooms and returns once everything that is emitted to them from then on,
// by any node, reaches it. It waits for the broker where this node has no other socket of a room yet.
// If ctx ends first, or the hub, the socket is in the rooms all the same and will be reached when
// the broker is there again; Leave undoes that. To join Everyone, or the socket itself, does nothing. The
// error is ErrTarget for another socket, and for a target that names nobody, and ErrTooMany if the socket would be in more
// than Limits.Rooms; then it is in none of them that it was not in before.
func (s *Socket) Join(ctx context.Context, rooms ...Target) error {
	return s.joinRooms(ctx, stateParked, rooms)
}

// joinRooms is Join for a socket whose state is before limit.
func (s *Socket) joinRooms(ctx context.Context, limit uint32, rooms []Target) error {
	rooms = slices.DeleteFunc(slices.Clone(rooms), s.isFixed)
	if slices.ContainsFunc(rooms, func(t Target) bool { return !t.joinable() }) {
		return fmt.Errorf("hub: join: %w", ErrTarget)
	}
	_, err := s.joinBefore(ctx, limit, 0, rooms)
	return err
}

// isFixed reports whether the socket is always in t.
func (s *Socket) isFixed(t Target) bool {
	return t.kind == everyone || t.kind == single && s.is(t.name)
}

// join makes the socket a member; since is not 0 for a registration. It reports whether one of the
// memberships is new, or newly a registration.
func (s *Socket) join(ctx context.Context, since int64, rooms ...Target) (fresh bool, err error) {
	return s.joinBefore(ctx, stateParked, since, rooms)
}

// joinBefore is join for a socket whose state is before limit.
func (s *Socket) joinBefore(ctx context.Context, limit uint32, since int64, rooms []Target) (fresh bool, err error) {
	h := s.client.hub
	joined := make([]membership, len(rooms))
	s.mu.Lock()
	if most := h.options.Limits.Rooms - s.joinedLocked(); len(rooms) > most && s.newLocked(rooms) > most && s.gate.State() < limit {
		s.mu.Unlock()
		return false, errTooManyRooms
	}
	for i, r := range rooms {
		if s.gate.State() >= limit {
			err = ErrDisconnected
			break
		}
		subject := s.ns.subject + r.name
		at := s.placeLocked(subject)
		if at < 0 {
			at = s.addLocked(h.interest.join(subject, s))
			s.reroomedLocked()
			fresh = true
		}
		if since != 0 && s.rooms[at].since == 0 {
			s.rooms[at].since = since
			fresh = true
		}
		joined[i] = s.rooms[at]
	}
	s.mu.Unlock()
	if err != nil {
		return fresh, err
	}
	for _, m := range joined {
		if err := h.interest.wait(ctx, m); err != nil {
			return fresh, err
		}
	}
	if h.kept != nil {
		return fresh, s.mark(ctx)
	}
	return fresh, nil
}

// manyRooms is from how many rooms on a socket has a map of them.
const manyRooms = 64

// placeLocked is where in rooms the room with the given subject is, -1 if the socket is not in it.
func (s *Socket) placeLocked(subject string) int {
	if s.extra != nil && s.extra.rare != nil && s.extra.rare.places != nil {
		if at, ok := s.extra.rare.places[subject]; ok {
			return at
		}
		return -1
	}
	return slices.IndexFunc(s.rooms, func(m membership) bool { return m.room.subject == subject })
}

// addLocked adds a membership, and returns its place.
func (s *Socket) addLocked(m membership) int {
	at := len(s.rooms)
	s.rooms = append(s.rooms, m)
	if at < manyRooms {
		return at
	}
	x := s.rareLocked()
	if x.places == nil {
		x.places = make(map[string]int)
		for i, m := range s.rooms {
			x.places[m.room.subject] = i
		}
	}
	x.places[m.room.subject] = at
	return at
}

// removeLocked removes the membership at i. Of many rooms the last takes its place.
func (s *Socket) removeLocked(i int) {
	if s.extra == nil || s.extra.rare == nil || s.extra.rare.places == nil {
		s.rooms = slices.Delete(s.rooms, i, i+1)
		return
	}
	places, last := s.extra.rare.places, len(s.rooms)-1
	delete(places, s.rooms[i].room.subject)
	if i < last {
		s.rooms[i] = s.rooms[last]
		places[s.rooms[i].room.subject] = i
	}
	s.rooms[last] = membership{}
	if s.rooms = s.rooms[:last]; last < manyRooms/2 {
		s.extra.rare.places = nil
	}
}

// joinedLocked counts the rooms that the socket has joined beside those that it cannot leave.
func (s *Socket) joinedLocked() int {
	n := len(s.rooms)
	if s.placeLocked(s.ns.subject) >= 0 { // the subject of Everyone
		n--
	}
	if s.named { // the room that has the name of its ID
		n--
	}
	return n
}

// newLocked is how many of rooms would be joined, of those that joinedLocked counts.
func (s *Socket) newLocked(rooms []Target) int {
	names := make(map[string]bool)
	for _, r := range rooms {
		if r != Everyone && r.kind != single && s.placeLocked(s.ns.subject+r.name) < 0 {
			names[r.name] = true
		}
	}
	return len(names)
}

// in reports whether the socket is in r.
func (s *Socket) in(r *room) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.placeLocked(r.subject) >= 0
}

// Leave takes the socket out of rooms, and ends a registration. What was emitted before may still
// arrive. Everyone, and the socket itself, cannot be left.
func (s *Socket) Leave(rooms ...Target) {
	s.tellRegistered(s.leaveRooms(stateParked, rooms)...)
}

// leaveRooms is Leave for a socket whose state is before limit. It returns those that it was in, if somebody wants
// to be told.
func (s *Socket) leaveRooms(limit uint32, rooms []Target) (left []Target) {
	h := s.client.hub
	told := h.registered.Load() != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.State() >= limit {
		return nil
	}
	for _, r := range rooms {
		if !r.joinable() {
			continue
		}
		if i := s.placeLocked(s.ns.subject + r.name); i >= 0 {
			if told {
				left = append(left, r)
			}
			h.interest.leave(s.rooms[i])
			s.removeLocked(i)
			s.unmarkLocked(r)
			s.reroomedLocked()
		}
	}
	return left
}

// Rooms are the targets that the socket is among, except Everyone: itself first, then the rooms that it has
// joined, and the users that it is registered for. After the disconnect they are those that it was among.
func (s *Socket) Rooms() []Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	rooms := make([]Target, 1, len(s.rooms)+1)
	rooms[0] = s.Target()
	for i := range s.rooms {
		if r := s.targetAt(i); r.joinable() {
			rooms = append(rooms, r)
		}
	}
	return rooms
}

func (s *Socket) targetAt(i int) Target {
	return targetOf(strings.TrimPrefix(s.rooms[i].room.subject, s.ns.subject))
}
