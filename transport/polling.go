package transport

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"tether/engine"
	"tether/internal/socketio"
)

// pollCloseWait is how long a closing session waits for the GET that takes what is queued, and
// pollShutdownWait how long it does in a drain, which other clients wait for.
const (
	pollCloseWait    = 30 * time.Second
	pollShutdownWait = 2 * time.Second
)

// payloadPackets is how many Engine.IO packets go into one response, attachments counted one by one:
// python-engineio takes a response with more for an attack. What is left goes into the next.
const payloadPackets = 16

// A GET that finds nothing to take while its client upgrades is answered with a noop: the client waits for
// its end before it goes over. It is kept for noopWait first, and the next ones for twice as long each: a
// client that gets no answer to its probe, because something on the way holds it back, polls all the while.
const noopWait = 10 * time.Millisecond

// byeWait is how long the end of a session is kept for the GET that is to hear of it.
const byeWait = 5 * time.Second

// What a GET gets from a session that has ended.
const (
	byeClose = "1"
	byeNoop  = "6"      // the client has closed it
	byeLater = "6\x1e1" // the GET came after the end
)

// poll is what a session on polling has besides. It is guarded by the session's lock.
type poll struct {
	waiting bool          // a GET waits for something to take
	post    *post         // a POST is being served
	bye     string        // what a GET gets when the session has ended
	wake    chan struct{} // of one: for the GET that waits
	probe   *websocket    // the connection that the client is upgrading to
	probed  bool          // probe was answered
	came    chan struct{} // closed when a GET waits; nil unless somebody waits for that
	noops   uint8         // GETs that a noop has answered since then
	noop    bool          // the GET that waits is to be answered with one
	name    string        // of the last GET that was answered with something, "" if the client gave it none
	from    string        // where it came from; "": through another node

	fresh   *fresh   // nil for most
	arrival *arrival // nil for most; immutable
}

// waitsLocked notes that a GET waits.
func (p *poll) waitsLocked() {
	p.waiting = true
	if p.came != nil {
		close(p.came)
		p.came = nil
	}
}

// awaitPoll waits a moment for the GET of a client that closes its session, unless one waits: it may have
// been sent before the POST, on another connection.
func (s *session) awaitPoll() {
	s.mu.Lock()
	if s.poll.waiting || s.carrier != nil {
		s.mu.Unlock()
		return
	}
	came := make(chan struct{})
	s.poll.came = came
	s.mu.Unlock()
	timer := time.NewTimer(noopWait)
	defer timer.Stop()
	select {
	case <-came:
	case <-timer.C:
	}
}

func (p *poll) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// openPolling answers a handshake.
func (h *Handler) openPolling(w http.ResponseWriter, r *http.Request) {
	s := &session{poll: &poll{bye: byeClose, wake: make(chan struct{}, 1)}}
	if refused := h.open(s, r); refused != nil {
		h.refuse(w, r, refused, false)
		return
	}
	if h.o.Cookie.Name != "" {
		http.SetCookie(w, h.o.Cookie.with(s.ID()))
	}
	h.opens(w, r)
	s.refresh(r)
	s.start(nil)
	if !h.writePayload(w, r, []byte(h.handshake(s.ID(), h.upgrades()))) {
		s.fail(engine.ReasonTransportError)
	}
}

// noop answers the GET that waits, if one does.
func (s *session) noop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poll != nil && s.poll.waiting {
		s.poll.noop = true
		s.poll.wakeUp()
	}
}

// servePolling answers a request, which may have been passed on by another node.
func (s *session) servePolling(w http.ResponseWriter, r *http.Request, passed bool) {
	switch r.Method {
	case http.MethodGet:
		s.servePoll(w, r, passed)
	case http.MethodPost:
		s.servePost(w, r)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// servePoll answers a GET, once there is something for the client. Browsers and proxies send one again whose answer was lost
// with its connection, or with a node that it went through: clients give each a name of its own. What was in the answer
// is gone, so the session ends.
func (s *session) servePoll(w http.ResponseWriter, r *http.Request, passed bool) {
	name, from := r.URL.Query().Get("t"), r.RemoteAddr
	if passed {
		from = ""
	}
	s.mu.Lock()
	if s.poll.waiting || name != "" && name == s.poll.name && (from == "" || from != s.poll.from) {
		end := s.endLocked(engine.ReasonTransportError)
		s.mu.Unlock()
		end.do()
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	at := s.state
	noop := s.awaitLocked(r.Context().Done())
	if at == stateOpen && s.carrier != nil { // a client that goes over has no GET any more, unless it comes late
		s.mu.Unlock()
		s.h.refuse(w, r, errBadRequest.because("name", "TRANSPORT_MISMATCH", "transport", Polling, "previousTransport", WebSocket), false)
		return
	}
	if !noop {
		s.poll.name, s.poll.from = name, from
	}
	body, rd := s.takePayload(noop) // unlocks
	if at == stateEnded {
		s.h.forget(s) // it was kept for this GET
	}
	s.unwritten(body, round{})
	if !s.h.writePayload(w, r, body) {
		s.fail(engine.ReasonTransportError)
		return
	}
	s.report(&rd)
	s.mu.Lock()
	s.writtenLocked()
	var end teardown
	if rd.final && s.state != stateEnded {
		end = s.endLocked(s.extra.reason)
	}
	s.mu.Unlock()
	end.do()
}

// awaitLocked waits until the GET is to be answered, without the lock, and reports whether with a noop.
func (s *session) awaitLocked(gone <-chan struct{}) (noop bool) {
	var patience <-chan time.Time
	for {
		select { // what it was about is seen now
		case <-s.poll.wake:
		default:
		}
		if s.pollableLocked() {
			return false
		}
		if patience == nil && s.poll.probed {
			timer := time.NewTimer(noopWait << min(s.poll.noops, 16))
			defer timer.Stop()
			patience = timer.C
		}
		s.poll.waitsLocked()
		s.mu.Unlock()
		select {
		case <-s.poll.wake:
		case <-patience:
			patience, noop = nil, true
		case <-gone:
			s.fail(engine.ReasonTransportError)
		}
		s.mu.Lock()
		let := s.poll.noop
		s.poll.waiting, s.poll.noop = false, false
		if let && !s.pollableLocked() {
			return true
		}
		if noop = noop && s.poll.probed && !s.pollableLocked(); noop {
			s.poll.noops++
			return true
		}
	}
}

// pollableLocked reports whether there is something for a GET to take.
func (s *session) pollableLocked() bool {
	return s.state != stateOpen || s.carrier != nil || s.ping || !s.queue.empty()
}

// takePayload encodes all that waits for the client, wire protocol section 1.4. It unlocks s.mu.
func (s *session) takePayload(noop bool) ([]byte, round) {
	var (
		rd      round
		packets []*engine.Packet
		body    []byte
	)
	switch {
	case s.state == stateEnded:
		body = []byte(s.poll.bye)
	case s.carrier != nil:
		body = []byte(byeNoop)
	default:
		n := 0
		if s.ping && s.state == stateOpen {
			body, n = append(body, '2'), 1
		}
		s.ping = false
		for !s.queue.empty() {
			n += 1 + s.queue.first.Attachments()
			if n > payloadPackets && len(packets) > 0 {
				break
			}
			p := s.queue.pop(s.h)
			rd.note(s.h, p)
			s.takenLocked(p)
			packets = append(packets, p)
		}
		s.lessLocked()
		// The close goes into a response of its own: clients look at the end of a session before they
		// handle the messages that came along with it, and would take a DISCONNECT for a lost connection.
		rd.final = s.state == stateClosing && len(packets) == 0
	}
	s.mu.Unlock()

	for _, p := range packets {
		body = appendPayload(body, p)
	}
	if rd.final {
		body = socketio.AppendText(body, []byte{'1'})
	}
	if noop {
		body = []byte(byeNoop)
	}
	return body, rd
}

func appendPayload(dst []byte, p *engine.Packet) []byte {
	if text := p.Text(); len(text) > 0 {
		dst = socketio.AppendText(dst, text)
	}
	for i := range p.Attachments() {
		dst = socketio.AppendBinary(dst, p.Attachment(i))
	}
	return dst
}

// pollChunk is what a polling client must take within WriteTimeout.
const pollChunk = 64 << 10

// writePayload answers r with body and reports whether the connection took it all.
func (h *Handler) writePayload(w http.ResponseWriter, r *http.Request, body []byte) bool {
	header := w.Header()
	if from := h.o.CompressPolling; from > 0 && len(body) >= from {
		if encoding := acceptedEncoding(r.Header["Accept-Encoding"]); encoding != "" {
			header.Set("Content-Encoding", encoding)
			body = compress(encoding, body)
		}
	}
	header.Set("Content-Type", "text/plain; charset=UTF-8")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	return h.writeBody(w, body)
}

func (h *Handler) writeBody(w http.ResponseWriter, body []byte) bool {
	rc := http.NewResponseController(w)
	for len(body) > 0 {
		n := min(len(body), pollChunk)
		rc.SetWriteDeadline(time.Now().Add(h.o.WriteTimeout)) // without it in a test recorder only
		if _, err := w.Write(body[:n]); err != nil {
			return false
		}
		h.burst.bytes.Add(uint64(n))
		body = body[n:]
	}
	if err := rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false
	}
	rc.SetWriteDeadline(time.Time{})
	return true
}
