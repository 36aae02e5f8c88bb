package transport

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"tether/engine"
	"tether/internal/budget"
	"tether/internal/socketio"
)

// A session on polling is fresh for a moment, if there are other nodes: its receiver knows that it is there, and nothing
// that its client has sent. That is kept, because the WebSocket to which the client upgrades may come to another node: a
// session of which nobody knows anything goes there at no cost. A client begins to upgrade as soon as it has its answer to
// the handshake, so a moment is enough.
type fresh struct {
	first    firstRequest
	began    int64 // when the handshake was answered, as Handler.now
	until    int64 // likewise; changes with the timer
	timer    *time.Timer
	kept     []byte        // packets that came, as the body of a POST
	share    budget.Share  // of what is not complete
	asked    bool          // the WebSocket of the client has come to another node
	settling bool          // what was kept is being delivered
	settled  chan struct{} // closed when it has been
}

// How long a session stays fresh. From its answer to the first POST is about one round trip to the client, and a
// WebSocket takes four at most, with TLS; a client that does not upgrade waits as long for its first answer.
const (
	freshMost   = 2 * time.Second // unless Options.UpgradeWait is longer
	freshTrips  = 4
	freshLimit  = 64 << 10 // bytes that are kept; with more it is not fresh any more
	payloadMark = 0x1e     // between packets
)

// firstRequest is the handshake of a session that may go to another node.
type firstRequest struct {
	URI, Host, Address string
	Header             http.Header
	Secure             bool
}

// refresh makes a session that has just begun a fresh one.
func (s *session) refresh(r *http.Request) {
	if s.h.o.Relay == nil || !s.h.upgrades() || s.h.o.Relay.Alone() {
		return
	}
	now, most := s.h.now(), max(freshMost, s.h.o.UpgradeWait)
	f := &fresh{
		share: budget.Share{End: func() { s.fail(engine.ReasonTransportError) }},
		first: firstRequest{URI: r.URL.RequestURI(), Host: r.Host, Address: r.RemoteAddr, Header: r.Header.Clone(), Secure: r.TLS != nil},
		began: now, until: now + int64(most), settled: make(chan struct{}),
	}
	s.mu.Lock()
	s.poll.fresh = f
	f.timer = time.AfterFunc(most, s.stale)
	s.mu.Unlock()
}

// stale is called by the timer of a fresh session, which may have been set again meanwhile.
func (s *session) stale() {
	s.mu.Lock()
	f := s.poll.fresh
	if f != nil && !f.settling {
		if left := f.until - s.h.now(); left > 0 {
			f.timer.Reset(time.Duration(left))
			s.mu.Unlock()
			return
		}
	}
	s.settleLocked(true)
}

// unaskedLocked notes that no other node has a WebSocket of the client any more.
func (s *session) unaskedLocked(f *fresh) {
	if f.asked {
		f.asked, s.poll.probed, s.poll.noops = false, false, 0
	}
}

// keep keeps the body of a POST for a session that is fresh. Otherwise it reports false, when what was kept before has
// been delivered.
func (s *session) keep(body []byte) bool {
	s.mu.Lock()
	f := s.poll.fresh
	if f != nil && !f.settling && s.state == stateOpen && len(f.kept)+len(body) < freshLimit && onlyMessages(body) {
		if f.kept == nil && !f.asked {
			now := s.h.now()
			f.until = now + max(min(freshTrips*(now-f.began), int64(freshMost)), int64(s.h.o.UpgradeWait))
			f.timer.Reset(time.Duration(f.until - now))
		}
		if f.kept != nil {
			f.kept = append(f.kept, payloadMark)
		}
		f.kept = append(f.kept, body...)
		size := cap(f.kept)
		s.mu.Unlock()
		s.h.incomplete.Hold(&f.share, size)
		return true
	}
	s.settleLocked(true)
	return false
}

// onlyMessages reports whether a body has packets for the receiver, and no others.
func onlyMessages(body []byte) bool {
	n := 0
	for p, err := range socketio.Payload(body) {
		if err != nil || p.Type != socketio.EngineMessage {
			return false
		}
		n++
	}
	return n > 0
}

// settle has the receiver get what was kept: from now on the session stays. It returns when that has been delivered.
func (s *session) settle() {
	s.mu.Lock()
	s.settleLocked(false)
}

// settleLocked is settle with the lock, which it unlocks. Stays says that the session stays whatever has been asked.
func (s *session) settleLocked(stays bool) {
	f := s.poll.fresh
	if stays && f != nil && !f.settling {
		s.unaskedLocked(f)
	}
	switch {
	case f == nil, f.asked && !f.settling && s.state == stateOpen:
		s.mu.Unlock()
		return
	case f.settling:
		s.mu.Unlock()
		<-f.settled
		return
	}
	f.settling = true
	f.timer.Stop()
	s.mu.Unlock()
	if len(f.kept) > 0 {
		for p, err := range socketio.Payload(f.kept) {
			if err != nil || !s.deliver(!p.Binary, p.Data) || !s.await(nil) {
				break
			}
		}
	}
	s.mu.Lock()
	s.poll.fresh = nil
	s.mu.Unlock()
	s.h.incomplete.Drop(&f.share)
	close(f.settled)
}

// The requests of a node to which the WebSocket of a client has come, to the one that has the session.
const (
	methodProbe = "PROBE" // it has come; the answer is the first request
	methodMove  = "MOVE"  // the client goes over to it; the answer is what was kept, and the session has ended here
	methodStay  = "STAY"  // it does not
)

// offer answers methodProbe. It reports false if the session is not fresh any more.
func (s *session) offer(w http.ResponseWriter) bool {
	s.mu.Lock()
	f := s.poll.fresh
	ok := f != nil && !f.settling && !f.asked && s.state == stateOpen && s.poll.probe == nil
	if ok {
		f.asked, f.until = true, s.h.now()+int64(s.h.o.UpgradeTimeout)
		f.timer.Reset(s.h.o.UpgradeTimeout)
		s.poll.probed = true // the client waits for the end of its GET before it goes over
		s.poll.wakeUp()
	}
	s.mu.Unlock()
	if ok {
		b, _ := json.Marshal(&f.first) // of texts it cannot fail
		w.Write(b)
	}
	return ok
}

// hand answers methodMove. It reports false if the session stays.
func (s *session) hand(w http.ResponseWriter) bool {
	s.mu.Lock()
	f := s.poll.fresh
	if f == nil || f.settling || !f.asked || s.state != stateOpen || s.poll.post != nil || s.delivering || !s.queue.empty() {
		s.mu.Unlock()
		return false
	}
	s.poll.bye = byeNoop // a GET that is late
	end := s.endLocked(engine.ReasonTransportClose)
	s.mu.Unlock()
	end.do()
	w.Write(f.kept)
	return true
}

// stay answers methodStay.
func (s *session) stay() {
	s.mu.Lock()
	s.settleLocked(true)
}

// packets takes the body of a POST with nothing but messages apart.
func packets(body []byte) [][]byte {
	if len(body) == 0 {
		return nil
	}
	return bytes.Split(body, []byte{payloadMark})
}
