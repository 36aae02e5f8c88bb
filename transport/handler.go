// Package transport is an Engine.IO server, protocol 4: sessions over HTTP long-polling and
// WebSocket, the upgrade from one to the other, heartbeats, and a bounded queue for every client.
// What the messages mean is the business of an [engine.Receiver]; package hub has one that speaks Socket.IO.
//
// A [Handler] is an [http.Handler]. [Handler.Serve] serves it together with the rest of an application, and
// ends everything in the right order. It works with any other [http.Server] too; one made by [NewServer], on
// a [Listener], also bounds what a client can do before its request has been read.
//
// Limits, all of them options but the fragments: a message or body of 1 MB, 1,024 fragments a message,
// 10 s for a message to complete, 1 MiB of queue, 5 s for the connection of a client to move, 45 s without
// a sign of life; 256 MiB for all queues together, and for all messages that are not complete. The kernel's
// buffers of a WebSocket connection are set to 64 KiB in each direction.
package transport

import (
	"errors"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"tether/engine"
	"tether/internal/budget"
	"tether/internal/group"
	"tether/internal/socketio"
)

// Handler serves Engine.IO. Close ends it.
//
// The order of the locks: a session's, then one of wheel.mu, flushers.mu and ranks.mu. All others are taken
// alone: mu, those of workers, poller, readStates and budgets, and that of a post. None is held while a receiver, an
// option's function or the end of a budget's share is called, nor for a system call or a channel that waits.
type Handler struct {
	o       Options
	server  engine.Server
	started time.Time
	node    string // that is in the IDs of sessions; "" without a relay

	wheel    wheel
	flushers flushers
	workers  workers
	poller   poller
	backlogs sync.Pool // of *backlog
	reads    readStates
	writers  sync.Pool // of *writer, for goroutines that wait for a client
	slow     slowConsumers

	queued atomic.Int64 // bytes that wait for clients, as the budget has it
	ranks  ranks

	incomplete budget.Budget // messages and bodies that have begun to come

	burst    burst
	mistakes mistakes
	opened   atomic.Uint64 // sessions so far
	received atomic.Uint64 // bytes of messages so far

	mu           sync.Mutex
	sessions     registry          // guarded by mu
	arrivals     map[*session]bool // guarded by mu; see arrival
	closed       bool              // guarded by mu: no more sessions
	sessionsLeft sync.WaitGroup    // until their receivers were told; added to under mu
	conns        group.Group       // WebSocket connections and goroutines of theirs; closed when no session is left
}

// NewHandler serves Engine.IO for a server, which gets every new session: a hub, say, or an
// [engine.AttachFunc]. Mount it at Options.Path. The error says which options are wrong.
func NewHandler(server engine.Server, o Options) (*Handler, error) {
	if server == nil {
		return nil, errors.New("transport: NewHandler needs a server: a hub, for example")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	h := &Handler{
		o:       o.withDefaults(),
		server:  server,
		started: time.Now(),
	}
	if h.o.Relay != nil {
		h.node, h.arrivals = h.o.Relay.Node(), make(map[*session]bool)
	}
	h.incomplete.Limit = h.o.UnfinishedBytes
	h.wheel.init(min(h.o.PingInterval, h.o.PingTimeout), max(h.o.PingInterval, h.o.PingTimeout), h.now)
	h.flushers.init(runtime.GOMAXPROCS(0))
	h.burst.now = h.now
	h.workers.keep = 4 * runtime.GOMAXPROCS(0)
	if h.o.Relay != nil {
		h.o.Relay.Serve(http.HandlerFunc(h.servePassed))
	}
	return h, nil
}

// now is a monotonic clock.
func (h *Handler) now() int64 { return int64(time.Since(h.started)) }

// Len is the number of sessions.
func (h *Handler) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions.len()
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, h.o.Path)
	if !ok {
		h.otherPath(r)
		http.NotFound(w, r)
		return
	}
	h.o.CORS.apply(w.Header(), r)
	if h.o.OnHeaders != nil {
		h.o.OnHeaders(w.Header(), r)
	}
	switch {
	case h.o.Client != nil && isClientFile(name):
		h.o.Client.ServeHTTP(w, r)
	case r.Method != http.MethodOptions || !h.o.CORS.enabled():
		h.serve(w, r)
	case h.o.CORS.serves(r):
		h.o.CORS.preflight(w, r)
	default:
		h.refuse(w, r, errForbidden.because("origin", r.Header.Get("Origin")), false)
	}
}

// serve answers a request of Engine.IO.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	transport := q.Get("transport")
	upgrade := wantsUpgrade(r, transport)
	s, node, refused := h.verify(r, upgrade, transport, q.Get("sid"), q.Get("EIO"))
	switch {
	case refused != nil:
		h.refuse(w, r, refused, upgrade)
	case node != "":
		h.pass(w, r, node, upgrade)
	case upgrade:
		h.serveUpgrade(w, r, s, transport == WebSocket)
	case s == nil:
		h.openPolling(w, r)
	default:
		s.servePolling(w, r, false)
	}
}

// verify makes the checks of the reference server, in its order, and those of ours where they do not
// disturb it. It returns the session that the request names, or the node that has it; neither for a handshake.
func (h *Handler) verify(r *http.Request, upgrade bool, transport, sid, eio string) (*session, string, *refusal) {
	origin := r.Header.Get("Origin")
	switch {
	case !slices.Contains(h.o.Transports, transport):
		return nil, "", errUnknownTransport.because("transport", transport)
	case doubled(r.Header):
		return nil, "", errBadRequest.because("name", "DOUBLED_HEADER")
	case !validHeader(origin):
		return nil, "", errBadRequest.because("name", "INVALID_ORIGIN", "origin", origin)
	case !h.o.CORS.serves(r):
		return nil, "", errForbidden.because("origin", origin)
	case sid != "":
		return h.verifySession(upgrade, transport, sid, eio)
	case r.Method != http.MethodGet:
		return nil, "", errMethod.because("method", r.Method)
	case transport == WebSocket && !upgrade:
		return nil, "", errBadRequest.because("name", "TRANSPORT_HANDSHAKE_ERROR")
	}
	if h.o.Allow != nil {
		if err := h.o.Allow(r); err != nil {
			return nil, "", (&refusal{status: http.StatusForbidden, code: errForbidden.code, message: err.Error()}).because("message", err.Error())
		}
	}
	if eio != "4" {
		return nil, "", errProtocol.because("protocol", eio)
	}
	return nil, "", nil
}

// verifySession is verify for a request that names a session.
func (h *Handler) verifySession(upgrade bool, transport, sid, eio string) (s *session, node string, _ *refusal) {
	s = h.session(sid)
	if s == nil {
		node = h.nodeOf(sid)
	}
	switch {
	case node != "":
		return nil, node, nil
	case s == nil || s.overdue():
		return nil, "", errUnknownSession.because("sid", sid)
	}
	if eio != "4" {
		return nil, "", errBadRequest.because("name", "UNSUPPORTED_PROTOCOL_VERSION", "protocol", eio)
	}
	if was := s.Transport(); !upgrade && (was != transport || was != Polling) { // a WebSocket takes no requests
		return nil, "", errBadRequest.because("name", "TRANSPORT_MISMATCH", "transport", transport, "previousTransport", was)
	}
	return s, "", nil
}

func validHeader(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func (h *Handler) session(sid string) *session {
	own, node := h.cutID(sid)
	key, ok := parseID(own)
	if h.o.GenerateID != nil {
		key, ok = nameID(sid), true
	}
	if !ok || node != h.node {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions.find(key)
}

// open opens a new session, when it has been accepted. It is to be started, or abandoned.
func (h *Handler) open(s *session, r *http.Request) *refusal {
	s.h, s.slot, s.delivering = h, noSlot, true
	if err := s.identify(r); err != nil {
		return errBadRequest.because("name", "ID_GENERATION_ERROR", "error", err.Error())
	}
	return h.admit(s, r)
}

// admit has the server and the registry take a session that has its ID.
func (h *Handler) admit(s *session, r *http.Request) *refusal {
	h.mu.Lock()
	switch {
	case h.sessions.find(s.id) != nil:
		h.mu.Unlock()
		return errBadRequest.because("name", "ID_GENERATION_ERROR", "error", "there is a session with this ID")
	case h.closed:
		h.mu.Unlock()
		return errDraining
	case h.o.MaxConns > 0 && h.sessions.len() >= h.o.MaxConns:
		h.mu.Unlock()
		return errFull
	}
	h.sessions.add(s)
	h.sessionsLeft.Add(1)
	h.mu.Unlock()

	refused := h.attach(s, r)
	if refused == nil {
		h.opened.Add(1)
	}
	if refused != nil {
		h.forget(s)
		h.sessionsLeft.Done()
	}
	return refused
}

// identify gives the session its ID.
func (s *session) identify(r *http.Request) error {
	if s.h.o.GenerateID == nil {
		s.id = newID()
		return nil
	}
	name, err := s.h.o.GenerateID(r)
	if err != nil {
		return err
	}
	if name += s.h.node; !validID(name) || name == s.h.node {
		return errors.New("the ID is not 1 to 128 letters, digits and -._~")
	}
	s.id, s.extra = nameID(name), &extra{name: name}
	return nil
}

func (h *Handler) attach(s *session, r *http.Request) (refused *refusal) {
	defer func() {
		if v := recover(); v != nil {
			h.panicked(v)
			refused = errInternal
		}
	}()
	receiver, err := h.server.Attach(s, r)
	s.mu.Lock()
	s.receiver = receiver
	s.mu.Unlock()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrDraining):
		return errDraining
	default:
		return errForbidden
	}
}

// abandon ends a session whose client could not be answered.
func (s *session) abandon() {
	s.fail(engine.ReasonTransportError)
	s.start(nil)
}

func (h *Handler) forget(s *session) {
	h.mu.Lock()
	h.sessions.remove(s)
	h.mu.Unlock()
}

// handshake is the open packet, wire protocol section 1.2.
func (h *Handler) handshake(id string, upgrades bool) string {
	b := append([]byte(`0{"sid":"`), id...)
	if upgrades {
		b = append(b, `","upgrades":["websocket"],"pingInterval":`...)
	} else {
		b = append(b, `","upgrades":[],"pingInterval":`...)
	}
	b = strconv.AppendInt(b, h.o.PingInterval.Milliseconds(), 10)
	b = append(b, `,"pingTimeout":`...)
	b = strconv.AppendInt(b, h.o.PingTimeout.Milliseconds(), 10)
	b = append(b, `,"maxPayload":`...)
	b = strconv.AppendInt(b, int64(h.o.MaxPayload), 10)
	return string(append(b, '}'))
}

// upgrades reports whether a polling client is offered WebSocket.
func (h *Handler) upgrades() bool {
	return !h.o.NoUpgrade && slices.Contains(h.o.Transports, WebSocket)
}

// Close ends all sessions for engine.ReasonShutdown, after what is queued for them, and waits until
// their receivers were told and every goroutine of the handler has ended. It takes at most
// WriteTimeout and a moment. New sessions are refused with 503 from then on. Shut the hub down
// before, so that clients are told and spread; this is what remains. [Handler.Serve] does all of it.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.closed = true
	all := h.sessions.all()
	arrivals := slices.Collect(maps.Keys(h.arrivals))
	h.mu.Unlock()
	for _, s := range all {
		s.leave()
	}
	for _, s := range arrivals {
		s.fail(engine.ReasonShutdown)
	}
	h.sessionsLeft.Wait()
	h.conns.Close()
	h.conns.Wait()
	h.poller.stop()
	h.wheel.stop()
	h.flushers.stop()
	h.workers.stop()
	return nil
}

// leave closes the session, without waiting for a polling client that is not there.
func (s *session) leave() {
	s.mu.Lock()
	absent := s.carrier == nil && s.poll != nil && !s.poll.waiting
	s.mu.Unlock()
	if absent {
		s.fail(engine.ReasonShutdown)
		return
	}
	s.Close(engine.ReasonShutdown)
}

// receive hands a WebSocket message to the session. It runs on a worker and reports whether the
// session goes on.
func (h *Handler) receive(j job) bool {
	data := j.data
	h.received.Add(uint64(len(data)))
	if j.compressed {
		var err error
		if data, err = inflate(data, h.o.MaxPayload); err == nil && j.text && !utf8.Valid(data) {
			err = faultEncoding
		}
		if f := fault(0); errors.As(err, &f) {
			j.s.shut(engine.ReasonTransportError, uint16(f))
			return false
		}
	}
	text := j.text
	switch {
	case text && !isMessage(data):
		return j.s.control(data)
	case text && data[0] == 'b':
		var err error
		if data, err = socketio.ParseBinary(data); err != nil {
			j.s.shut(engine.ReasonParseError, 0)
			return false
		}
		text = false
	case text:
		data = data[1:]
	}
	return j.s.deliver(text, data) && j.s.await(nil)
}

// isMessage reports whether text is an Engine.IO message: text, or binary in base64.
func isMessage(text []byte) bool { return len(text) > 0 && (text[0] == '4' || text[0] == 'b') }
