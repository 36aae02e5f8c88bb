package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/simbroker"
)

// account is the book of one session: where its client was, in which rooms, and what it got.
type account struct {
	w         *recoveringWorld
	t         *traveller
	n         int // of the client's sessions
	sid       string
	namespace string
	user      string

	mu        sync.Mutex
	stays     []*staying        // guarded by mu
	visits    []*visit          // guarded by mu
	got       map[uint64]bool   // guarded by mu
	last      map[string]uint64 // guarded by mu; by stream: the number that came last
	holes     []*posted         // guarded by mu; that are missing although a later one has come
	told      int               // guarded by mu; how often the application was told that it is not recovered
	reason    hub.Reason        // guarded by mu; then
	kick      bool              // guarded by mu; somebody may have disconnected, or refused it
	kicked    moment            // guarded by mu; since when it is disconnected for certain
	questions int               // guarded by mu
	lost      []int             // guarded by mu; questions whose answers are lost
	over      bool              // guarded by mu; the client has another session
	doubts    []string          // guarded by mu; what is wrong with its rooms in the last hook, unless the client comes again
}

// staying is one time in one room. A moment that has not come is zero.
type staying struct {
	room                       string
	asked, sure, leaving, gone moment
	first                      bool // the answer to CONNECT makes it sure
}

// visit is one connection of the session.
type visit struct {
	node *recoveringNode
	from moment    // the client knew that it is connected
	to   time.Time // the client knew that it is not; zero: it is
}

// slack is how long an event may be on its way, a slow node included.
const slack = simbroker.MaxSlow + simbroker.Patience

func (a *account) String() string { return fmt.Sprintf("session %d of %v", a.n, a.t) }

func (a *account) ask(room string) *staying {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &staying{room: room, asked: a.w.now()}
	for _, o := range a.stays {
		if o.room == room && o.gone.n == 0 && o.leaving.n == 0 {
			return o // it is in it already
		}
	}
	a.stays = append(a.stays, s)
	return s
}

// wasIn reports whether the session was in a room for certain at a moment, and has not begun to leave it.
func (a *account) wasIn(room string, m moment) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.stays, func(s *staying) bool {
		return s.room == room && s.sure.n != 0 && s.sure.n < m.n && s.leaving.n == 0
	})
}

// maybe notes that the session may be in a room from now on.
func (a *account) maybe(room string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stays = append(a.stays, &staying{room: room, asked: a.w.now()})
}

func (a *account) joined(s *staying, sure bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if sure && s.sure.n == 0 && s.leaving.n == 0 {
		s.sure = a.w.now()
	}
}

func (a *account) leave(room string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.stays {
		if s.room == room && s.leaving.n == 0 {
			s.leaving = a.w.now()
		}
	}
}

func (a *account) left(room string, sure bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.stays {
		if s.room == room && s.leaving.n != 0 && s.gone.n == 0 && sure {
			s.gone = a.w.now()
		}
	}
}

// kicking notes that somebody may disconnect the session from now on.
func (a *account) kicking() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kick = true
}

func (a *account) kickedAt(m moment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kicked.n == 0 {
		a.kicked = m
	}
}

func (a *account) question(moment) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.questions++
	return a.questions
}

// answered is told what has become of a question that was sent at a moment.
func (a *account) answered(q int, err error, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	stayed := slices.ContainsFunc(a.visits, func(v *visit) bool { return v.from.at.Before(at) && v.to.IsZero() })
	gone := errors.Is(err, hub.ErrDisconnected) && time.Since(at) > 0
	if gone || errors.Is(err, context.DeadlineExceeded) && !stayed {
		a.lost = append(a.lost, q)
	}
}

// unrecovered is told by the application that the session has ended.
func (a *account) unrecovered(n *recoveringNode, r hub.Reason) {
	a.w.note("%s says that %v is not recovered: %s", n.name, a, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told++
	a.reason = r
	if a.told > 1 {
		a.w.violate("%v: the application is told %d times that it is not recovered", a, a.told)
	}
}

// cameBack looks at a socket that is recovered, in its connect hook.
func (a *account) cameBack(n *recoveringNode, s *hub.Socket) {
	if s.ID() != a.sid {
		a.w.violate("%v comes back with the ID %s, it was %s", a, s.ID(), a.sid)
	}
	switch b, ok := s.Data().(*badgeOf); {
	case !ok || b.Client != a.t.n || b.Session != a.n:
		a.w.violate("%v comes back with the data %v", a, s.Data())
	}
	var rooms []string
	for _, r := range s.Rooms() {
		if r != s.Target() {
			rooms = append(rooms, roomOf(r))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubts = nil
	may, must := map[string]bool{}, map[string]bool{}
	for _, stay := range a.stays {
		if stay.room == everyone || stay.room == a.sid {
			continue
		}
		may[stay.room] = may[stay.room] || stay.gone.n == 0
		must[stay.room] = must[stay.room] || stay.sure.n != 0 && stay.leaving.n == 0
	}
	for _, r := range rooms {
		if !may[r] {
			a.doubts = append(a.doubts, fmt.Sprintf("in the room %q, which it has left", r))
		}
	}
	for r := range must {
		if must[r] && !slices.Contains(rooms, r) {
			a.doubts = append(a.doubts, fmt.Sprintf("without its room %q: %q", r, rooms))
		}
	}
}

// opens notes that the client knows that it is connected.
func (a *account) opens(n *recoveringNode) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.w.now()
	a.visits = append(a.visits, &visit{node: n, from: now})
	if len(a.visits) == 1 {
		a.stays = append(a.stays, &staying{room: a.sid, asked: now, sure: now})
		for _, s := range a.stays {
			if s.first && s.leaving.n == 0 {
				s.sure = now
			}
		}
		return
	}
	for _, doubt := range a.doubts {
		a.w.violate("%v comes back to %s %s", a, n.name, doubt)
	}
	if a.told > 0 {
		a.w.violate("%v is recovered, and the application was told that it is not: %s", a, a.reason)
	}
	if len(a.lost) > 0 {
		a.w.violate("%v is recovered, and its answer to question %v was lost", a, a.lost)
	}
	a.demandLocked("is recovered")
}

// firstNode is the node where the session began, nil before the client knows that it is connected.
func (a *account) firstNode() *recoveringNode {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.visits) == 0 {
		return nil
	}
	return a.visits[0].node
}

// closes notes that the client has lost its connection.
func (a *account) closes() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.visits) == 0 {
		return
	}
	if v := a.visits[len(a.visits)-1]; v.to.IsZero() {
		v.to = time.Now()
	}
}

// demandLocked complains about events that are missing.
func (a *account) demandLocked(what string) {
	for _, m := range a.holes {
		if !a.got[m.Number] && !a.excusedLocked(m) {
			a.w.violate("%v %s without %v", a, what, m)
		}
	}
	a.holes = nil
}

// receive notes that the client has got an event.
func (a *account) receive(number uint64) {
	a.w.mu.Lock()
	p := a.w.numbers[number]
	var before []*posted
	if p != nil && p.stream != "" {
		before = slices.Clone(a.w.events[p.stream])
	}
	a.w.mu.Unlock()
	if p == nil {
		a.w.violate("%v got event %d, which nobody has emitted", a, number)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.got[number]:
		if a.unsteadyLocked(p) {
			break
		}
		a.w.violate("%v got %v twice", a, p)
	case p.namespace != a.namespace || !slices.ContainsFunc(p.to, func(r string) bool { return a.mayLocked(r, p) }):
		a.w.violate("%v got %v, and was not in the room", a, p)
	case p.stream != "" && p.Number < a.last[p.stream]:
		a.w.violate("%v got %v after %d", a, p, a.last[p.stream])
	}
	a.got[number] = true
	for _, m := range before {
		if m.Number < number && m.Number > a.last[p.stream] && !a.got[m.Number] && a.dueLocked(m) {
			a.holes = append(a.holes, m)
		}
	}
	a.last[p.stream] = max(a.last[p.stream], number)
}

// mayLocked reports whether the session may get what was emitted to a room.
func (a *account) mayLocked(room string, p *posted) bool {
	done := p.doneAt()
	return slices.ContainsFunc(a.stays, func(s *staying) bool {
		return s.room == room && (s.gone.n == 0 || p.began.at.Before(s.gone.at.Add(slack))) &&
			(done.n == 0 || done.at.Add(slack).After(s.asked.at))
	})
}

// unsteadyLocked reports whether the session may have joined or left one of several rooms while an event was on its way
// to all of them: then it may be taken for one that gets it through another.
func (a *account) unsteadyLocked(p *posted) bool {
	if len(p.to) == 1 {
		return false
	}
	done := p.doneAt()
	during := func(from, to moment) bool {
		return from.n != 0 && (done.n == 0 || from.at.Before(done.at.Add(slack))) && (to.n == 0 || to.at.After(p.began.at.Add(-slack)))
	}
	return slices.ContainsFunc(a.stays, func(s *staying) bool {
		return slices.Contains(p.to, s.room) && (s.sure.n == 0 || during(s.asked, s.sure) || during(s.leaving, s.gone))
	})
}

// dueLocked reports whether the session has to get an event while it is recovered.
func (a *account) dueLocked(p *posted) bool {
	done := p.doneAt()
	if p.volatile || p.hasFailed() || done.n == 0 || p.namespace != a.namespace || a.unsteadyLocked(p) {
		return false
	}
	for _, r := range p.except {
		if a.mayLocked(r, p) {
			return false
		}
	}
	return slices.ContainsFunc(p.to, func(r string) bool {
		return slices.ContainsFunc(a.stays, func(s *staying) bool {
			return s.room == r && s.sure.n != 0 && s.sure.n < p.began.n &&
				(s.leaving.n == 0 || s.leaving.at.After(done.at.Add(slack)))
		})
	})
}

// excusedLocked reports whether a node has said that it may have missed the event, while the client was connected to it:
// one that was away is told that it is not recovered. What is for the socket alone goes by the node that its ID names,
// which may have missed it too, or died with it, or ended while it was cut off, or was cut off before it had passed it on.
func (a *account) excusedLocked(p *posted) bool {
	done := p.doneAt()
	missed := func(n *recoveringNode) bool {
		a.w.mu.Lock()
		defer a.w.mu.Unlock()
		return slices.ContainsFunc(a.w.gaps[n.name], func(g broker.Gap) bool {
			return g.From.Before(done.at.Add(slack)) && g.To.After(p.began.at.Add(-slack))
		})
	}
	cut := func(n *recoveringNode) bool {
		a.w.mu.Lock()
		defer a.w.mu.Unlock()
		return slices.ContainsFunc(a.w.cuts[n.name], func(at time.Time) bool {
			return at.After(p.began.at.Add(-slack)) && at.Before(done.at.Add(2*time.Second)) // for which a node passes it on
		})
	}
	if home := a.visits[0].node; p.to[0] == a.sid && (home.isDead() || missed(home) || cut(home) || !a.w.calm && home.isEnding()) {
		return true
	}
	return slices.ContainsFunc(a.visits, func(v *visit) bool {
		return !v.from.at.After(done.at.Add(slack)) && (v.to.IsZero() || !v.to.Before(p.began.at)) && missed(v.node)
	})
}

// inspect looks at the account at rest.
func (a *account) inspect(now moment) {
	a.w.mu.Lock()
	var all []*posted
	for _, p := range a.w.numbers {
		if p.namespace == a.namespace && p.began.n < now.n {
			all = append(all, p)
		}
	}
	a.w.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || len(a.visits) == 0 || !a.visits[len(a.visits)-1].to.IsZero() {
		return
	}
	for _, p := range all {
		if !a.got[p.Number] && a.dueLocked(p) {
			a.holes = append(a.holes, p)
		}
	}
	a.demandLocked("goes on")
	if a.kicked.n != 0 {
		a.w.violate("%v goes on, and was disconnected", a)
	}
}

// ends looks at the reason for which the client was told that it is not recovered.
func (a *account) ends(n *recoveringNode, reason string) {
	a.w.mu.Lock()
	a.w.outcomes[reason]++
	troubled := a.w.troubled
	var byID bool // something was emitted for the socket alone
	var except []string
	for _, p := range a.w.numbers {
		byID = byID || p.to[0] == a.sid
		except = append(except, p.except...)
	}
	a.w.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	if len(a.visits) == 0 {
		return
	}
	lost := a.visits[len(a.visits)-1].to
	broken := !troubled.IsZero()
	ended := slices.ContainsFunc(a.visits, func(v *visit) bool { return v.node.isEnding() }) || a.t.tried()
	ok := false
	switch reason {
	case "expired":
		ok = time.Since(lost) >= a.w.recovery.Window
	case "overflowed":
		ok = a.w.small
	case "question":
		ok = a.questions > 0
	case "refused":
		ok = a.kick
	case "node lost":
		ok = broken || ended
	case "gap": // or what a node before has passed on, or told late, came behind a later event: see docs/resume.md
		moves := 0
		for i := range a.visits[1:] {
			if a.visits[i].node != a.visits[i+1].node {
				moves++
			}
		}
		joined := slices.ContainsFunc(a.stays, func(s *staying) bool { return slices.Contains(except, s.room) })
		ok = broken || moves > 1 || moves > 0 && (byID || joined)
	case "unknown":
		ok = a.told > 0 || broken || ended
	}
	if !ok {
		a.w.violate("%v is not recovered by %s after %v, and the reason is said to be %q", a, n.name, time.Since(lost), reason)
	}
}
