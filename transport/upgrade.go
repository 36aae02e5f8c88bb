package transport

import (
	"net/http"
	"strings"
	"time"

	"tether/engine"
)

// serveUpgrade answers a request that wants WebSocket and has passed verify. known says that the
// query agrees; s is the session that it names, or nil.
func (h *Handler) serveUpgrade(w http.ResponseWriter, r *http.Request, s *session, known bool) {
	if refused := checkHandshake(r); refused != nil {
		h.refuse(w, r, refused, true)
		return
	}
	switch {
	case !known: // the reference server upgrades and closes
		ws := new(websocket)
		if answer := h.hijack(w, r, ws); answer != nil {
			defer ws.Conn.Close()
			if ws.writeWithin(answer, h.o.WriteTimeout) == nil {
				ws.refuse(h, 0)
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
	s, ws := h.newConnection()
	if refused := h.open(s, r); refused != nil {
		h.refuse(w, r, refused, true)
		return
	}
	h.opens(w, r)
	answer := h.hijack(w, r, ws)
	if answer == nil {
		s.abandon()
		return
	}
	answer = appendTextFrame(answer, h.handshake(s.ID(), false))
	if c := h.adopt(s, ws); c != nil {
		err := h.answer(ws, c, answer)
		ws.Conn.Close() // c has a copy of its descriptor
		if err != nil {
			c.abort()
			s.abandon()
			return
		}
		s.start(c)
		c.begin(ws.early())
		ws.release()
		return
	}
	err := ws.prepare()
	if err == nil {
		err = h.answer(ws, ws, answer)
	}
	if err != nil {
		ws.Conn.Close()
		s.abandon()
		return
	}
	h.conns.Begin() // before Close can wait: the session is not told yet
	s.start(ws)
	ws.serve(h)
}

// answer answers a handshake over ws. c is what is going to carry the session.
func (h *Handler) answer(ws *websocket, c carrier, b []byte) error {
	if c.direct() {
		n, err := c.tryWrite(b)
		if n == len(b) || err != nil {
			return err
		}
		b = b[n:]
	}
	return ws.writeWithin(b, h.o.WriteTimeout)
}

// adopted is a carrier that goes on with the connection of a portable one.
type adopted interface {
	carrier

	// begin starts the reading, after the bytes of early. Until then it only writes.
	begin(early []byte)
}

// serveProbe connects WebSocket to a session on polling, wire protocol section 1.7.
func (h *Handler) serveProbe(w http.ResponseWriter, r *http.Request, s *session) {
	if s.poll != nil {
		s.settle()
	}
	h.startProbe(w, r, s)
}

// startProbe reads from the WebSocket of a client that may go over to it. It reports false if that cannot be.
func (h *Handler) startProbe(w http.ResponseWriter, r *http.Request, s *session) bool {
	ws := &websocket{s: s, probing: true}
	answer := h.hijack(w, r, ws)
	if answer == nil {
		return false
	}
	err := ws.prepare()
	if err == nil {
		err = ws.writeWithin(answer, h.o.WriteTimeout)
	}
	if err != nil {
		ws.Conn.Close()
		return false
	}
	ws.Conn.SetReadDeadline(time.Now().Add(h.o.UpgradeTimeout))
	s.mu.Lock()
	ok := h.upgrades() && s.state == stateOpen && s.poll != nil && s.carrier == nil && s.poll.probe == nil && s.poll.fresh == nil
	if ok {
		s.poll.probe = ws
		h.conns.Begin() // before Close can wait: the session is not told yet
	}
	s.mu.Unlock()
	if !ok {
		ws.refuse(h, 0)
		ws.Conn.Close()
		return false
	}
	ws.serve(h)
	return true
}

// probe handles a message on a connection that the session is to be upgraded to.
func (w *websocket) probe(text bool, data []byte) {
	switch {
	case text && string(data) == "2probe":
		w.s.probed(w) // before the client can know of it
		if err := w.writeWithin(frameProbe, w.s.h.o.WriteTimeout); err != nil {
			w.end = err
		}
	case text && len(data) > 0 && data[0] == '5':
		w.end = w.move()
	default:
		w.end = errStopped
	}
}

// move makes w the session's carrier, or one that adopts its connection. It returns why reading stops.
func (w *websocket) move() error {
	a := w.s.poll.arrival
	if a != nil {
		coming := &arriving{w.s, make(chan bool)}
		w.s.h.workers.hand(coming)
		if !<-coming.ok {
			return errStopped
		}
	}
	switch err := w.carry(); {
	case a == nil:
		return err
	case err != nil && err != errMoved:
		w.s.fail(engine.ReasonTransportError)
		return err
	}
	for _, p := range packets(a.kept) { // before what the client sends here
		if w.receive(job{s: w.s, text: true, data: p}); w.end != nil {
			break
		}
	}
	a.kept = nil
	if w.moved != nil {
		return errMoved
	}
	return w.end
}

// carry is move for a session that is here.
func (w *websocket) carry() error {
	w.moved = w.s.h.adopt(w.s, w)
	if w.moved == nil {
		if !w.s.upgrade(w, w) {
			return errStopped
		}
		w.probing = false
		return nil
	}
	if !w.s.upgrade(w, w.moved) {
		w.moved.abort()
		return errStopped
	}
	w.probing = false
	return errMoved
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

// upgrade makes c the session's carrier, after the probe of w. It does not while a POST is under way: the
// client's messages would overtake each other.
func (s *session) upgrade(w *websocket, c carrier) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateEnded || s.poll.probe != w || s.delivering || s.poll.post != nil {
		return false
	}
	s.carrier = c
	s.poll.probe, s.poll.probed, s.poll.noops = nil, false, 0
	s.poll.wakeUp()
	w.Conn.SetReadDeadline(time.Time{})
	if s.state == stateClosing { // the client has left polling, so the rest leaves here
		s.setDueLocked(s.h.now() + int64(s.h.o.WriteTimeout))
	}
	if s.state == stateClosing || s.ping || !s.queue.empty() {
		s.scheduleWriteLocked()
	}
	return true
}

// giveUp makes the reader of a probe close it: the session has ended.
func (w *websocket) giveUp() { w.Conn.SetReadDeadline(time.Now()) }

// dropProbe gives up an upgrade. Polling goes on.
func (s *session) dropProbe(w *websocket) {
	s.mu.Lock()
	if s.poll.probe == w {
		s.poll.probe, s.poll.probed, s.poll.noops = nil, false, 0
	}
	s.mu.Unlock()
}

// hijack has ws take the connection over from the HTTP server and returns the answer to the handshake, which
// has been checked. It returns nil after answering that this cannot be done.
func (h *Handler) hijack(w http.ResponseWriter, r *http.Request, ws *websocket) []byte {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.noHijack(w, err)
		h.refuse(w, r, errInternal, false)
		return nil
	}
	if c, ok := conn.(*boundConn); ok {
		conn = c.Conn
	}
	conn.SetDeadline(time.Time{})
	ws.Conn = conn
	ws.tune(h.o.KernelBuffer)
	if n := rw.Reader.Buffered(); n > 0 { // what the client sent without waiting for the answer
		early, _ := rw.Reader.Peek(n)
		ws.in = h.reads.get()
		ws.in.buf = append(ws.in.buf, early...)
	}
	if h.o.Compress {
		if extension := negotiate(r.Header); extension != "" {
			w.Header().Set("Sec-WebSocket-Extensions", extension)
			ws.format |= formatDeflate
		}
	}
	if strings.Contains(r.URL.RawQuery, "b64=") && r.URL.Query().Get("b64") != "" {
		ws.format |= formatBase64
	}
	if protocol, _ := subprotocol(r.Header); protocol != "" {
		w.Header().Set("Sec-WebSocket-Protocol", protocol)
	}
	return handshakeAnswer(r.Header.Get("Sec-WebSocket-Key"), w.Header())
}

// tune bounds what the kernel holds for the connection.
func (w *websocket) tune(size int) {
	if size < 0 {
		return
	}
	if c, ok := w.Conn.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		c.SetReadBuffer(size)
		c.SetWriteBuffer(size)
	}
}
