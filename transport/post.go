package transport

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"tether/engine"
	"tether/internal/budget"
	"tether/internal/socketio"
)

// post is a POST whose body is being read. It is cut off when its session ends, or for the budget of what
// is not complete.
type post struct {
	conn     *http.ResponseController
	deadline time.Time // for the whole body

	mu   sync.Mutex // held for calls of conn, which do not wait
	over bool       // guarded by mu: conn is not to be used any more
}

// wait allows another read, unless the body was cut off.
func (p *post) wait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.conn.SetReadDeadline(p.deadline) // without it in a test recorder only
	}
	return !p.over
}

// cut ends the reading.
func (p *post) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over = true
		p.conn.SetReadDeadline(time.Now())
	}
}

// done is called when the body has come, after which the connection belongs to net/http again. It reports
// whether it was not cut off.
func (p *post) done() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return false
	}
	p.over = true
	p.conn.SetReadDeadline(time.Time{})
	return true
}

// spare leaves the connection to net/http, although the session ends: it reads some of what still comes, so
// that the client, which is still sending, gets its answer and not a reset connection.
func (p *post) spare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over = true
		p.conn.SetReadDeadline(p.deadline)
	}
}

// leave is called at the end. The deadline of a body that did not come stays: net/http reads what is left of it.
func (p *post) leave() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
}

// counted reads a body into a buffer whose size the budget is told before each read.
type counted struct {
	r    io.Reader
	post *post
	body *bytes.Buffer
	hold func(bytes int)
}

func (c *counted) Read(p []byte) (int, error) {
	c.hold(c.body.Cap())
	if !c.post.wait() {
		return 0, engine.ErrDisconnected
	}
	return c.r.Read(p)
}

// readBody reads the body of a POST, within the limits and counted in share. The status is that of the answer if
// it is not http.StatusOK: then the session has to end.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, p *post, share *budget.Share) (*bytes.Buffer, int) {
	if r.ContentLength > int64(h.o.MaxPayload) {
		p.spare()
		return nil, http.StatusRequestEntityTooLarge
	}
	held := func(bytes int) { h.incomplete.Hold(share, bytes) }
	body := new(bytes.Buffer)
	_, err := io.Copy(body, &counted{r: http.MaxBytesReader(w, r.Body, int64(h.o.MaxPayload)), post: p, body: body, hold: held})
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		p.spare()
		return nil, http.StatusRequestEntityTooLarge
	}
	if err != nil || !p.done() {
		return nil, http.StatusBadRequest
	}
	return body, http.StatusOK
}

// servePost takes the packets of a POST.
func (s *session) servePost(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/octet-stream") {
		s.fail(engine.ReasonTransportError)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	if s.poll.post != nil {
		end := s.endLocked(engine.ReasonTransportError)
		s.mu.Unlock()
		end.do()
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p := &post{conn: http.NewResponseController(w), deadline: time.Now().Add(s.h.o.MessageTimeout)}
	s.poll.post = p
	ended := s.state == stateEnded
	s.mu.Unlock()

	status := http.StatusBadRequest
	if !ended {
		status = s.receivePost(w, r, p)
	}
	p.leave()

	s.mu.Lock()
	s.poll.post = nil
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
func (s *session) receivePost(w http.ResponseWriter, r *http.Request, p *post) int {
	share := &budget.Share{End: func() {
		p.cut()
		s.fail(engine.ReasonTransportError)
	}}
	defer s.h.incomplete.Drop(share)
	body, status := s.h.readBody(w, r, p, share)
	if status != http.StatusOK {
		s.fail(engine.ReasonTransportError)
		return status
	}
	s.h.received.Add(uint64(body.Len()))
	if s.keep(body.Bytes()) {
		return http.StatusOK
	}
	for p, err := range socketio.Payload(body.Bytes()) {
		switch {
		case err != nil:
			s.shut(engine.ReasonParseError, 0)
			return http.StatusOK // as the reference server has it
		case p.Type != socketio.EngineMessage:
			if p.Type == '1' {
				s.awaitPoll()
			}
			if !s.control([]byte{p.Type}) {
				return http.StatusOK
			}
		case !s.deliver(!p.Binary, p.Data) || !s.await(r.Context().Done()):
			return http.StatusOK
		}
	}
	return http.StatusOK
}
