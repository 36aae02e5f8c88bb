package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"tether/engine"
	"tether/internal/budget"
)

// Relay passes requests on to the nodes that have their sessions. Package relay has one.
type Relay interface {
	// Node is the tag of this node: letters, digits, - and _. Those of all nodes are of one length, and no two
	// nodes that are, were or will be there have the same.
	Node() string

	// Alone reports whether there are no other nodes.
	Alone() bool

	// Leaving is done when this node is about to end, and waits for what it has passed on until then.
	Leaving() context.Context

	// Serve is told once, by NewHandler, what answers the requests that other nodes pass on.
	Serve(h http.Handler)

	// Pass passes r on to a node, and its answer to w: method, query, headers and body, and the end of the
	// request's context. It returns when the answer has been written. The error says why there is none, or not
	// all of it: [engine.ErrNodeGone] says that no such node is alive.
	Pass(node string, w http.ResponseWriter, r *http.Request) error
}

// methodEnd has the node that has a session end it: its client has not got an answer, or has broken a rule.
const methodEnd = "END"

// methodNoop has the node that has a session answer the GET that waits: the node that has passed it on ends.
const methodNoop = "NOOP"

// noopAgain is the time between two of them, for a GET that has not come to wait when the first one does.
const noopAgain = 100 * time.Millisecond

// endTime is how long that may take.
const endTime = 2 * time.Second

// pass answers a request with the ID of a session on another node.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, node string, upgrade bool) {
	if upgrade {
		h.serveArrival(w, r, node)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.o.MessageTimeout+h.o.PingInterval+h.o.PingTimeout+h.o.WriteTimeout)
	defer cancel()
	var body []byte
	switch r.Method {
	case http.MethodGet:
		leaving := h.o.Relay.Leaving()
		if leaving.Err() != nil { // nothing has been taken for it yet, so that a proxy may ask another node
			h.refuse(w, r, errDraining, false)
			return
		}
		defer context.AfterFunc(leaving, func() { h.letGo(ctx, r, node) })()
	case http.MethodPost:
		p := &post{conn: http.NewResponseController(w), deadline: time.Now().Add(h.o.MessageTimeout)}
		share := &budget.Share{End: func() { p.cut(); cancel() }}
		defer h.incomplete.Drop(share)
		read, status := h.readBody(w, r, p, share)
		p.leave()
		if status != http.StatusOK {
			h.endElsewhere(r, node)
			w.Header().Set("Connection", "close")
			w.WriteHeader(status)
			return
		}
		body = read.Bytes()
	default:
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	a := &passed{ResponseWriter: w, h: h}
	err := h.o.Relay.Pass(node, a, passedOn(ctx, r, r.Method, body))
	switch {
	case a.lost, a.begun && err != nil: // the client has not got it all
		h.endElsewhere(r, node)
	case err == nil:
	case errors.Is(err, engine.ErrNodeGone):
		h.refuse(w, r, errUnknownSession.because("sid", r.URL.Query().Get("sid")), false)
	default:
		h.o.Logger.Debug("transport: a request was not passed on", "node", node, "error", err)
		if r.Method == http.MethodGet { // what it has taken may be lost, and a proxy may send it again
			h.endElsewhere(r, node)
		}
		h.refuse(w, r, errRelay, false)
	}
}

// maxPassedOn is the longest parameter that is passed on.
const maxPassedOn = 200

// passedOn is what the other node gets of a request: nothing that it does not need.
func passedOn(ctx context.Context, r *http.Request, method string, body []byte) *http.Request {
	q, from := url.Values{}, r.URL.Query()
	for _, name := range []string{"EIO", "transport", "sid", "t"} {
		if v := from.Get(name); v != "" && len(v) <= maxPassedOn {
			q.Set(name, v)
		}
	}
	out := &http.Request{
		Method: method, URL: &url.URL{Path: "/", RawQuery: q.Encode()}, Header: http.Header{},
		Body: http.NoBody, ContentLength: int64(len(body)),
	}
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	for _, name := range []string{"Accept-Encoding", "Content-Type"} {
		if v := r.Header[name]; len(v) > 0 {
			out.Header[name] = v
		}
	}
	return out.WithContext(ctx)
}

// endElsewhere ends a session on another node.
func (h *Handler) endElsewhere(r *http.Request, node string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), endTime)
	defer cancel()
	if err := h.o.Relay.Pass(node, new(discarded), passedOn(ctx, r, methodEnd, nil)); err != nil {
		h.o.Logger.Debug("transport: a session on another node was not ended", "node", node, "error", err)
	}
}

// letGo has the node that has a session answer the GET that this node has passed on, until it has, which is the end of ctx.
func (h *Handler) letGo(ctx context.Context, r *http.Request, node string) {
	ticker := time.NewTicker(noopAgain)
	defer ticker.Stop()
	for ctx.Err() == nil {
		_ = h.o.Relay.Pass(node, new(discarded), passedOn(ctx, r, methodNoop, nil)) // if it fails, so does the GET
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// passed is the answer of another node on its way to the client, which has to take it as that of this one.
type passed struct {
	http.ResponseWriter
	h     *Handler
	begun bool
	lost  bool // the client has not taken it
}

func (w *passed) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *passed) Write(b []byte) (int, error) {
	w.begun = true
	if !w.h.writeBody(w.ResponseWriter, b) {
		w.lost = true
		return 0, engine.ErrDisconnected
	}
	return len(b), nil
}

// discarded is an answer that nobody reads.
type discarded struct{ header http.Header }

func (w *discarded) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

func (*discarded) WriteHeader(int)             {}
func (*discarded) Write(b []byte) (int, error) { return len(b), nil }

// servePassed answers what another node has passed on. It passes nothing on itself.
func (h *Handler) servePassed(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	sid := q.Get("sid")
	s, node, refused := h.verifySession(false, q.Get("transport"), sid, q.Get("EIO"))
	switch {
	case node != "":
		h.refuse(w, r, errUnknownSession.because("sid", sid), false)
	case refused != nil:
		h.refuse(w, r, refused, false)
	case !s.serveNode(w, r.Method):
		s.servePolling(w, r, true)
	}
}

// serveNode answers what another node wants by itself. It reports false if it has passed the request of a client on.
func (s *session) serveNode(w http.ResponseWriter, method string) bool {
	ok := true
	switch method {
	case methodEnd:
		s.fail(engine.ReasonTransportError)
	case methodNoop:
		s.noop()
	case methodProbe:
		ok = s.offer(w)
	case methodMove:
		ok = s.hand(w)
	case methodStay:
		s.stay()
	default:
		return false
	}
	if !ok {
		w.WriteHeader(http.StatusConflict)
	}
	return true
}
