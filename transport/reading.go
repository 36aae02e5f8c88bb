package transport

import (
	"sync"
	"unicode/utf8"

	"tether/engine"
	"tether/internal/budget"
)

const bufferSize = 4 << 10 // of a readState that is kept

// readState is what has come over a WebSocket connection and was not dealt with: a part of a message, or more, for
// as long as somebody reads. An idle connection has none.
type readState struct {
	buf   []byte // what has come
	at    int    // buf[:at] was dealt with
	head  frame  // of the frame at buf[at:]
	known bool   // head is

	check frameCheck
	parts []byte // the fragments so far of the message that has begun
	text  bool   // what that message is
	code  uint16 // of the client's close frame
	whole bool   // a message is complete: data
	data  []byte // aliases buf or parts

	share *budget.Share // nil until the message is worth counting

	// On epoll, as session.due.
	started  int64 // when the message had to be waited for; 0: it was not
	deadline int64 // of the message; set while nobody reads
}

// readStates are those that no connection holds. It is not a [sync.Pool] because an idle connection must never be
// the one that allocates: see workers.
type readStates struct {
	mu   sync.Mutex
	free []*readState // guarded by mu
}

// maxReadStates is how many are kept.
const maxReadStates = 64

func (p *readStates) get() *readState {
	p.mu.Lock()
	n := len(p.free)
	if n == 0 {
		p.mu.Unlock()
		return &readState{buf: make([]byte, 0, bufferSize)}
	}
	in := p.free[n-1]
	p.free = p.free[:n-1]
	p.mu.Unlock()
	return in
}

// put takes back in, unless it has grown.
func (p *readStates) put(in *readState) {
	if cap(in.buf) != bufferSize || cap(in.parts) > bufferSize {
		return
	}
	*in = readState{buf: in.buf[:0], parts: in.parts[:0]}
	p.mu.Lock()
	if len(p.free) < maxReadStates {
		p.free = append(p.free, in)
	}
	p.mu.Unlock()
}

// recycle gives in back.
func (h *Handler) recycle(in *readState) {
	in.forget(h)
	h.reads.put(in)
}

// note tells the budget what has come of a message of s that is not complete.
func (in *readState) note(s *session) {
	held := 0
	if cap(in.buf) > bufferSize {
		held = cap(in.buf)
	}
	if in.check.open || cap(in.parts) > bufferSize {
		held += cap(in.parts)
	}
	if held >= budget.Small || in.share != nil {
		in.hold(s, held)
	}
}

//go:noinline
func (in *readState) hold(s *session, bytes int) {
	if in.share == nil {
		in.share = &budget.Share{End: func() { s.fail(engine.ReasonTransportError) }}
	}
	s.h.incomplete.Hold(in.share, bytes)
}

// forget undoes note. in may be nil.
func (in *readState) forget(h *Handler) {
	if in != nil && in.share != nil {
		h.incomplete.Drop(in.share)
	}
}

// begun reports whether a message has begun to come.
func (in *readState) begun() bool { return in.at < len(in.buf) || in.check.open }

// room is where to read to. It makes some behind what is there; memory grows with what has come, to the size of the
// frame.
func (in *readState) room() []byte {
	if in.at == len(in.buf) {
		in.buf, in.at = in.buf[:0], 0
	}
	switch {
	case len(in.buf) < cap(in.buf):
	case in.at > 0:
		in.buf, in.at = in.buf[:copy(in.buf, in.buf[in.at:])], 0
	default:
		more := make([]byte, len(in.buf), min(2*cap(in.buf), in.head.size()))
		copy(more, in.buf)
		in.buf = more
	}
	return in.buf[len(in.buf):cap(in.buf)]
}

// pinger is the carrier that a ping came over.
type pinger interface {
	pinged(payload []byte) error
}

// next deals with whole frames up to one that completes a message.
func (in *readState) next(s *session, f format, from pinger) error {
	for !in.whole {
		b := in.buf[in.at:]
		if !in.known {
			head, ok, err := in.check.next(b, s.h.o.MaxPayload, f.compressed())
			if err != nil || !ok {
				return err
			}
			if err := s.allows(&head); err != nil {
				return err
			}
			in.head, in.known = head, true
		}
		head := &in.head
		if len(b) < head.size() {
			return nil
		}
		payload := b[head.header:head.size()]
		head.unmask(payload)
		in.at += head.size()
		in.known = false
		if err := in.frame(head, payload, from); err != nil {
			return err
		}
	}
	return nil
}

// frame deals with one frame.
func (in *readState) frame(f *frame, payload []byte, from pinger) (err error) {
	switch f.op {
	case opPing:
		return from.pinged(payload)
	case opPong:
		return nil
	case opClose:
		if in.code, err = closeCode(payload); err != nil {
			return err
		}
		return errPeerClosed
	case opContinuation:
		in.parts = append(in.parts, payload...)
	default:
		in.text = f.op == opText
		if !f.fin {
			in.parts = append(in.parts[:0], payload...)
		}
	}
	if !f.fin {
		return nil
	}
	in.data = payload
	if f.op == opContinuation {
		in.data = in.parts
	}
	if in.text && !in.check.compressed && !utf8.Valid(in.data) {
		return faultEncoding
	}
	in.whole, in.started = true, 0
	return nil
}
