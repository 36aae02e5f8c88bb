package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"tether/engine"
)

// arrival is a session on another node whose client has a WebSocket here, to which it may go over. The session here
// stands for it until then: it is empty, has no receiver, and nobody finds it.
type arrival struct {
	node, sid string
	first     *http.Request // of the session: the receiver gets it
	kept      []byte        // packets that the receiver is to get first; set when the session has arrived
}

// maxFirst is the largest answer of another node about a session: the head of a request, or what was kept.
const maxFirst = 1 << 20

// errStays says that a node does not give a session away.
var errStays = errors.New("transport: the node does not give the session away")

// ask asks the node that has the session. Its answer may be nil.
func (h *Handler) ask(ctx context.Context, node, sid, method string) ([]byte, error) {
	r := &http.Request{URL: &url.URL{RawQuery: url.Values{"EIO": {"4"}, "transport": {Polling}, "sid": {sid}}.Encode()}}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	w := new(recorded)
	if err := h.o.Relay.Pass(node, w, passedOn(ctx, r, method, nil)); err != nil {
		return nil, err
	}
	if w.status != http.StatusOK {
		return nil, errStays
	}
	return w.body.Bytes(), nil
}

// recorded is an answer of another node to this one.
type recorded struct {
	discarded
	status int
	body   bytes.Buffer
}

func (w *recorded) WriteHeader(status int) { w.status = status }

func (w *recorded) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.body.Len()+len(b) > maxFirst {
		return 0, errors.New("transport: what a node says of a session is too long")
	}
	return w.body.Write(b)
}

// serveArrival connects a WebSocket to a session on another node, if that is fresh; it comes here then. Otherwise the
// request is refused, and the client goes on polling.
func (h *Handler) serveArrival(w http.ResponseWriter, r *http.Request, node string) {
	if refused := checkHandshake(r); refused != nil {
		h.refuse(w, r, refused, true)
		return
	}
	a := &arrival{node: node, sid: r.URL.Query().Get("sid")}
	if !h.upgrades() {
		h.refuse(w, r, errBadRequest.because("name", "TRANSPORT_HANDSHAKE_ERROR"), true)
		return
	}
	text, err := h.ask(r.Context(), node, a.sid, methodProbe)
	var first firstRequest
	if err == nil {
		err = json.Unmarshal(text, &first)
	}
	if err == nil {
		a.first, err = first.request()
	}
	switch {
	case errors.Is(err, engine.ErrNodeGone):
		h.refuse(w, r, errUnknownSession.because("sid", a.sid), true)
		return
	case err != nil:
		if !errors.Is(err, errStays) { // it may have been asked
			h.tellStays(a)
		}
		h.refuse(w, r, errBadRequest.because("name", "TRANSPORT_HANDSHAKE_ERROR"), true)
		return
	}
	s := &session{poll: &poll{bye: byeClose, wake: make(chan struct{}, 1), arrival: a}, h: h, slot: noSlot, delivering: true}
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.arrivals[s] = true
	}
	h.mu.Unlock()
	switch {
	case closed:
		h.tellStays(a)
		h.refuse(w, r, errDraining, true)
	case !h.startProbe(w, r, s):
		h.departed(s)
	}
}

// departed is called when the client has not gone over to its WebSocket here.
func (h *Handler) departed(s *session) {
	h.mu.Lock()
	was := h.arrivals[s]
	delete(h.arrivals, s)
	h.mu.Unlock()
	if was {
		h.tellStays(s.poll.arrival)
	}
}

// tellStays tells the node that has a session that its client has no WebSocket here.
func (h *Handler) tellStays(a *arrival) {
	if _, err := h.ask(context.Background(), a.node, a.sid, methodStay); err != nil {
		h.o.Logger.Debug("transport: a session stays on another node, which does not know yet", "node", a.node, "error", err)
	}
}

// request is the first request of a session as the node had it that answered it.
func (f *firstRequest) request() (*http.Request, error) {
	u, err := url.ParseRequestURI(f.URI)
	if err != nil {
		return nil, err
	}
	r := &http.Request{
		Method: http.MethodGet, URL: u, RequestURI: f.URI, Host: f.Host, RemoteAddr: f.Address, Header: f.Header, Body: http.NoBody,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if f.Secure {
		r.TLS = new(tls.ConnectionState)
	}
	return r, nil
}

// arriving has a worker fetch the session, because the reader's stack is to stay small.
type arriving struct {
	s  *session
	ok chan bool
}

func (a *arriving) run() { a.ok <- a.s.arrive() }

// arrive makes s what the session on the other node was. It reports whether it could; otherwise the client has lost its
// session.
func (s *session) arrive() bool {
	h, a := s.h, s.poll.arrival
	h.mu.Lock()
	was := h.arrivals[s]
	delete(h.arrivals, s)
	h.mu.Unlock()
	if !was {
		return false
	}
	own, _ := h.cutID(a.sid)
	key, ok := parseID(own)
	if h.o.GenerateID != nil || !ok {
		key = nameID(a.sid)
	}
	s.mu.Lock()
	s.id = key
	s.extraLocked().name = a.sid
	s.mu.Unlock()
	if refused := h.admit(s, a.first); refused != nil {
		_, _ = h.ask(context.Background(), a.node, a.sid, methodEnd) // its client has gone
		return false
	}
	kept, err := h.ask(context.Background(), a.node, a.sid, methodMove)
	if err != nil {
		h.o.Logger.Debug("transport: a session was lost on its way from another node", "node", a.node, "error", err)
		_, _ = h.ask(context.Background(), a.node, a.sid, methodEnd) // its client has gone
		s.abandon()
		return false
	}
	a.kept = kept
	s.start(nil)
	return true
}
