package transport

import (
	"net"
	"net/http"
	"syscall"
	"time"
)

// serveUpgrade answers a request that wants WebSocket and has passed verify. known says that the
// query agrees; s is the session that it names, or nil.
func (h *Handler) serveUpgrade(w http.ResponseWriter, r *http.Request, s *session, known bool) {
	if refused := checkHandshake(r); refused != nil {
		refused.write(w, true)
		return
	}
	switch {
	case !known: // the reference server upgrades and closes
		if ws, _ := h.hijack(w, r, nil); ws != nil {
			defer ws.Conn.Close()
			if ws.writeWithin(ws.takeAnswer(), h.o.WriteTimeout) == nil {
				ws.refuse(h)
			}
		}
	case s != nil:
		h.serveProbe(w, r, s)
	default:
		h.openWebSocket(w, r)
	}
}

// openWebSocket answers a handshake on WebSocket.
func (h *Handler) openWebSocket(w http.ResponseWriter, r *http.Request) {
	s, refused := h.open(r, false)
	if refused != nil {
		refused.write(w, true)
		return
	}
	ws, c := h.hijack(w, r, s)
	if ws == nil {
		s.abandon()
		return
	}
	hello := appendTextFrame(ws.takeAnswer(), h.handshake(s.id, false))
	if err := ws.writeWithin(hello, h.o.WriteTimeout); err != nil {
		ws.Conn.Close()
		s.abandon()
		return
	}
	h.conns.Add(1) // before Close can wait: the session is not told yet
	s.start(ws)
	ws.serve(h, c)
}

// serveProbe connects WebSocket to a session on polling, wire protocol section 1.7.
func (h *Handler) serveProbe(w http.ResponseWriter, r *http.Request, s *session) {
	ws, c := h.hijack(w, r, s)
	if ws == nil {
		return
	}
	ws.probing = true
	if ws.writeWithin(ws.takeAnswer(), h.o.WriteTimeout) != nil {
		ws.Conn.Close()
		return
	}
	ws.Conn.SetReadDeadline(time.Now().Add(h.o.UpgradeTimeout))
	s.mu.Lock()
	ok := h.upgrades() && s.state == stateOpen && s.poll != nil && s.carrier == nil && s.poll.probe == nil
	if ok {
		s.poll.probe = ws
		h.conns.Add(1) // before Close can wait: the session is not told yet
	}
	s.mu.Unlock()
	if !ok {
		ws.refuse(h)
		ws.Conn.Close()
		return
	}
	ws.serve(h, c)
}

// probe handles a message on a connection that the session is to be upgraded to.
func (w *websocket) probe(text bool, data []byte) {
	switch {
	case text && string(data) == "2probe":
		if err := w.writeWithin(frameProbe, w.s.h.o.WriteTimeout); err != nil {
			w.end = err
			return
		}
		w.s.probed(w)
	case text && len(data) > 0 && data[0] == '5' && w.s.upgrade(w):
		w.probing = false
	default:
		w.end = errStopped
	}
}

// probed lets the client's GET return, so that it can go on: the client waits for it.
func (s *session) probed(w *websocket) {
	s.mu.Lock()
	if s.poll.probe == w {
		s.poll.probed = true
		s.poll.wakeUp()
	}
	s.mu.Unlock()
}

// upgrade makes w the session's carrier. A client that has a POST under way has not done its part:
// its messages would overtake each other.
func (s *session) upgrade(w *websocket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateEnded || s.poll.probe != w || s.delivering || s.poll.posting {
		return false
	}
	s.carrier = w
	s.poll.probe, s.poll.probed = nil, false
	s.poll.wakeUp()
	w.Conn.SetReadDeadline(time.Time{})
	if s.state == stateClosing { // the client has left polling, so the rest leaves here
		s.setDueLocked(s.h.now() + int64(s.h.o.WriteTimeout))
	}
	if s.state == stateClosing || s.ping || !s.queue.empty() {
		s.kickLocked()
	}
	return true
}

// dropProbe gives up an upgrade. Polling goes on.
func (s *session) dropProbe(w *websocket) {
	s.mu.Lock()
	if s.poll.probe == w {
		s.poll.probe, s.poll.probed = nil, false
	}
	s.mu.Unlock()
}

// hijack takes the connection over from the HTTP server and prepares the answer to the handshake. It
// returns nil after answering that this cannot be done.
func (h *Handler) hijack(w http.ResponseWriter, r *http.Request, s *session) (*websocket, *libraryConn) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		errInternal.write(w, false)
		return nil, nil
	}
	if c, ok := conn.(*headConn); ok {
		conn = c.Conn
	}
	conn.SetDeadline(time.Time{})
	ws := &websocket{Conn: conn, s: s, answer: []byte{}}
	ws.tune()
	if n := rw.Reader.Buffered(); n > 0 { // what the client sent without waiting for the answer
		early, _ := rw.Reader.Peek(n)
		if n <= bufferSize {
			ws.in = h.buffers.get()[:n]
		} else {
			ws.in = make([]byte, n)
		}
		copy(ws.in, early)
	}
	c, err := h.library.accept(ws, r.Header.Get("Sec-WebSocket-Key"))
	if err != nil { // it was checked; the library would have to disagree
		conn.Close()
		return nil, nil
	}
	if h.o.Compress {
		if extension := negotiate(r.Header); extension != "" {
			w.Header().Set("Sec-WebSocket-Extensions", extension)
			ws.compression = true
		}
	}
	ws.extend(w.Header())
	return ws, c
}

// tune bounds what the kernel holds for the connection.
func (w *websocket) tune() {
	if c, ok := w.Conn.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		c.SetReadBuffer(kernelSize)
		c.SetWriteBuffer(kernelSize)
	}
	if c, ok := w.Conn.(syscall.Conn); ok && canTry {
		w.raw, _ = c.SyscallConn()
	}
}

// extend adds headers to the answer, before the empty line at its end.
func (w *websocket) extend(h http.Header) {
	if len(h) == 0 {
		return
	}
	b := appender(w.answer[:len(w.answer)-2])
	h.Write(&b)
	w.answer = append(b, "\r\n"...)
}

// takeAnswer returns the answer to the handshake. From now on the library's writes go nowhere.
func (w *websocket) takeAnswer() []byte {
	b := w.answer
	w.answer = nil
	return b
}

type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

var _ net.Conn = (*websocket)(nil)
