package transport

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
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

// poll is what a session on polling has besides. It is guarded by the session's lock.
type poll struct {
	waiting bool          // a GET waits for something to take
	posting bool          // a POST is being served
	bye     byte          // the packet that a GET gets from an ended session: close, or noop
	wake    chan struct{} // of one: for the GET that waits
	probe   *websocket    // the connection that the client is upgrading to
	probed  bool          // probe was answered: no GET is kept waiting
}

func (p *poll) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// openPolling answers a handshake.
func (h *Handler) openPolling(w http.ResponseWriter, r *http.Request) {
	s := &session{poll: &poll{bye: '1', wake: make(chan struct{}, 1)}}
	if refused := h.open(s, r); refused != nil {
		refused.write(w, false)
		return
	}
	if h.o.Cookie != "" {
		w.Header().Add("Set-Cookie", h.o.Cookie+"="+s.ID()+"; Path=/; HttpOnly; SameSite=Lax")
	}
	s.start(nil)
	if !h.writePayload(w, []byte(h.handshake(s.ID(), h.upgrades()))) {
		s.fail(engine.ReasonTransportError)
	}
}

func (s *session) servePolling(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		s.servePoll(w, r)
	case http.MethodPost:
		s.servePost(w, r)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// servePoll answers a GET, once there is something for the client.
func (s *session) servePoll(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.poll.waiting {
		end := s.endLocked(engine.ReasonTransportError)
		s.mu.Unlock()
		end.do()
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for {
		select { // what it was about is seen now
		case <-s.poll.wake:
		default:
		}
		if s.pollableLocked() {
			break
		}
		s.poll.waiting = true
		s.mu.Unlock()
		select {
		case <-s.poll.wake:
		case <-r.Context().Done():
			s.fail(engine.ReasonTransportError)
		}
		s.mu.Lock()
		s.poll.waiting = false
	}
	body, rd := s.takePayload() // unlocks
	s.stalls(body, round{})
	if !s.h.writePayload(w, body) {
		s.fail(engine.ReasonTransportError)
		return
	}
	s.mu.Lock()
	s.landedLocked()
	var end ending
	if rd.final && s.state != stateEnded {
		end = s.endLocked(s.extra.reason)
	}
	s.mu.Unlock()
	end.do()
}

// pollableLocked reports whether a GET is to be answered now.
func (s *session) pollableLocked() bool {
	return s.state != stateOpen || s.carrier != nil || s.poll.probed || s.ping || !s.queue.empty()
}

// takePayload encodes all that waits for the client, wire protocol section 1.4. It unlocks s.mu.
func (s *session) takePayload() ([]byte, round) {
	var (
		rd      round
		packets []*engine.Packet
		body    []byte
	)
	switch {
	case s.state == stateEnded:
		body = []byte{s.poll.bye}
	case s.carrier != nil:
		body = []byte{'6'}
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
			packets = append(packets, p)
		}
		s.lessLocked()
		// The close goes into a response of its own: clients look at the end of a session before they
		// handle the messages that came along with it, and would take a DISCONNECT for a lost connection.
		rd.final = s.state == stateClosing && len(packets) == 0
	}
	probed := s.poll.probed
	s.mu.Unlock()

	for _, p := range packets {
		body = appendPayload(body, p)
	}
	if rd.final {
		body = socketio.AppendText(body, []byte{'1'})
	}
	if len(body) == 0 && probed {
		body = []byte{'6'}
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

// writePayload answers with body and reports whether the connection took it all.
func (h *Handler) writePayload(w http.ResponseWriter, body []byte) bool {
	header := w.Header()
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
		body = body[n:]
	}
	if err := rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false
	}
	rc.SetWriteDeadline(time.Time{})
	return true
}

// counted reads a body into a buffer whose size the budget is told before each read.
type counted struct {
	r    io.Reader
	body *bytes.Buffer
	hold func(bytes int)
}

func (c *counted) Read(p []byte) (int, error) {
	c.hold(c.body.Cap())
	return c.r.Read(p)
}

// servePost takes the packets of a POST.
func (s *session) servePost(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/octet-stream") {
		s.fail(engine.ReasonTransportError)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	if s.poll.posting {
		end := s.endLocked(engine.ReasonTransportError)
		s.mu.Unlock()
		end.do()
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.poll.posting = true
	s.mu.Unlock()

	status := s.receivePost(w, r)

	s.mu.Lock()
	s.poll.posting = false
	s.mu.Unlock()
	if status != http.StatusOK {
		w.Header().Set("Connection", "close")
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Content-Length", "2")
	s.h.writeBody(w, []byte("ok"))
}

// receivePost reads the body and delivers its packets. It returns the status of the answer.
func (s *session) receivePost(w http.ResponseWriter, r *http.Request) int {
	if r.ContentLength > int64(s.h.o.MaxPayload) {
		s.fail(engine.ReasonTransportError)
		return http.StatusRequestEntityTooLarge
	}
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(s.h.o.MessageTimeout)) // without it in a test recorder only
	p := &partial{end: func() {
		rc.SetReadDeadline(time.Now())
		s.fail(engine.ReasonTransportError)
	}}
	held := func(bytes int) { s.h.partials.hold(p, bytes) }
	defer held(0)
	var body bytes.Buffer
	_, err := io.Copy(&body, &counted{r: http.MaxBytesReader(w, r.Body, int64(s.h.o.MaxPayload)), body: &body, hold: held})
	if err != nil {
		s.fail(engine.ReasonTransportError)
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			return http.StatusRequestEntityTooLarge
		}
		return http.StatusBadRequest
	}
	rc.SetReadDeadline(time.Time{})

	for p, err := range socketio.Payload(body.Bytes()) {
		switch {
		case err != nil:
			s.shut(engine.ReasonParseError, 0)
			return http.StatusOK // as the reference server has it
		case p.Type != socketio.EngineMessage:
			if !s.control([]byte{p.Type}) {
				return http.StatusOK
			}
		case !s.deliver(!p.Binary, p.Data) || !s.await(r.Context().Done()):
			return http.StatusOK
		}
	}
	return http.StatusOK
}
