package hub

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"tether/broker"
	"tether/engine"
	"tether/internal/socketio"
)

// The words of CONNECT_ERROR that do not come from the application.
const (
	refusedNamespace = "Invalid namespace"
	refusedMany      = "too many namespaces"
	refusedAuth      = "auth is too large"
	refusedDevices   = "too many devices"
	refusedKicked    = "disconnected"
	refusedOther     = "connection refused"
)

// connect handles CONNECT. The hooks run on a goroutine of their own; meanwhile the socket counts as
// joining, and what is emitted to it is held.
func (c *client) connect(p socketio.Packet) error {
	limits := &c.hub.options.Limits
	if c.find(p.Namespace) != nil {
		return errJoinedTwice
	}
	if len(p.Data) > limits.Auth {
		c.refuseAtOnce(p.Namespace, refusedAuth)
		return nil
	}
	ns, err := c.hub.namespace(p.Namespace)
	if err != nil {
		return err
	}
	if ns == nil {
		c.refuseAtOnce(p.Namespace, refusedNamespace)
		return nil
	}
	// The hooks' context does not come from Run: it ends before Run does. It has no parent, because all
	// connections would share the parent's lock.
	w, auth := c.wish(string(p.Data))
	s := c.newSocket(ns, auth, w != nil)
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), hookKey{}, s), c.hub.options.HookTimeout)
	s.admission = &admission{cancel: cancel}

	before := c.newest()
	added, full := c.add(s)
	if !added || !c.hub.work.Begin() {
		s.drop()
		if full {
			c.refuseAtOnce(p.Namespace, refusedMany)
		}
		return nil
	}
	go c.admit(ctx, s, before, w) // Hub.Run waits for it
	return nil
}

// drop ends a socket that is connecting, without a word to the client.
func (s *Socket) drop() {
	if was := s.end(false); was != stateGone {
		s.client.forget(s, was, false)
	}
}

// add makes s one of the connection's sockets, unless it has too many, or has ended.
func (c *client) add(s *Socket) (added, full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false, false
	}
	last, n := &c.sockets, 0
	for ; *last != nil; last = &(*last).next {
		if (*last).gate.State() < stateParked {
			n++
		}
	}
	if n >= c.hub.options.Limits.Namespaces {
		return false, true
	}
	*last = s
	if k := c.kicks; k != nil {
		k.kicked = slices.DeleteFunc(k.kicked, func(name string) bool { return name == s.ns.name })
	}
	return true, false
}

// hookKey finds, in the context of a connect hook, the socket that it is about.
type hookKey struct{}

// admit runs the hooks of a CONNECT and answers it, after the CONNECT of before has been answered. W is what the
// client wants back, nil if it is nothing.
func (c *client) admit(ctx context.Context, s, before *Socket, w *wish) {
	defer c.hub.work.End()
	defer s.answer()
	overdue := time.AfterFunc(c.hub.options.HookTimeout, func() {
		if !errors.Is(ctx.Err(), context.Canceled) { // even if the hook does not care
			c.hub.counters.timedOut.Add(1)
			c.first.conn.Close(ReasonServerClose)
		}
	})
	var err error
	if w != nil {
		err = s.admitAgain(ctx, w)
	} else {
		err = s.admit(ctx)
	}
	overdue.Stop()
	if before != nil {
		before.awaitAnswer(ctx)
	}
	c.awaitDepartures()
	if err == nil {
		if c.hub.options.ForgetHandshake {
			c.forgetHandshake(s)
		}
		s.welcome()
		return
	}
	interrupted := ctx.Err() != nil
	if s.gate.State() == stateConnecting && (interrupted || temporary(err)) && s.Recovered() {
		if !errors.Is(err, errLost) {
			c.hub.failed("connect hook", "", s, err)
		}
		c.first.conn.Close(ReasonServerClose) // the session waits again
		return
	}
	if s.endBefore(stateParked, false) == stateGone {
		return // by the client, by a kick, or because the connection has ended
	}
	s.unrecovered(true)
	defer c.forget(s, stateConnecting, false) // once it has been answered
	var panicked *panicError
	var refusal *Refusal
	switch {
	case errors.As(err, &panicked):
		c.hub.failed("connect hook", "", s, err)
	case errors.Is(err, errForeign):
		c.first.conn.Close(ReasonServerClose) // the client comes back as the other user
	case errors.As(err, &refusal):
		c.refuse(s.ns.name, refusal.Message, refusal.Data)
	case errors.Is(err, ErrTooManyDevices):
		c.refuse(s.ns.name, refusedDevices, nil)
	case interrupted, temporary(err):
		// A client that is refused does not try again; one that lost its connection does.
		c.hub.failed("connect hook", "", s, err)
		c.first.conn.Close(ReasonServerClose)
	default:
		c.hub.failed("connect hook", "", s, err)
		c.refuse(s.ns.name, refusedOther, nil)
	}
}

// admit runs the hooks, and makes the socket reachable.
func (s *Socket) admit(ctx context.Context) error {
	if err := s.ns.admit(ctx, s); err != nil {
		return err
	}
	return s.settle(ctx)
}

// temporary reports whether the client should try again rather than be refused.
func temporary(err error) bool {
	return errors.Is(err, broker.ErrUnavailable) || errors.Is(err, broker.ErrRefused) || errors.Is(err, broker.ErrClosed) ||
		errors.Is(err, errInterestStopped) || errors.Is(err, errLost) || errors.Is(err, context.DeadlineExceeded)
}

// refuse sends CONNECT_ERROR.
func (c *client) refuse(namespace, message string, data any) error {
	c.hub.counters.refused.Add(1)
	if c.hub.traces() {
		c.hub.log.Debug("a client is refused", append(c.who(namespace), slog.String("reason", loggable(message, maxLoggedError)))...)
	}
	text, err := json.Marshal(refusalText(&Refusal{message, data}))
	if err != nil {
		c.hub.log.Error("data of a refusal cannot be encoded", "error", err)
		text, _ = json.Marshal(map[string]string{"message": message})
	}
	head := socketio.AppendHeader(nil, socketio.Packet{Type: socketio.ConnectError, Namespace: namespace})
	c.first.conn.Send(engine.NewPacket(control, append(head, text...)), nil)
	return nil
}

// refusalText is what a client gets to see of a refusal.
func refusalText(r *Refusal) any {
	return struct {
		Message string `json:"message"`
		Data    any    `json:"data,omitempty"`
	}{r.Message, r.Data}
}

func (c *client) forgetHandshake(s *Socket) {
	c.mu.Lock()
	c.handshake = strippedHandshake(c.handshake)
	c.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.extra; x != nil {
		if x.auth = ""; *x == (extra{}) {
			s.extra = nil
		}
	}
}

// admission is what a socket has while it is connecting. The fields are guarded by the socket's mu.
type admission struct {
	cancel     context.CancelFunc // ends the hooks' context
	held       packets
	over       chan struct{} // closed when the socket is connected, or gone; nil unless somebody waits for it
	disconnect bool          // DISCONNECT has to follow the answer, and what was held; the socket is gone already
}

// end tells those that wait that the socket is not connecting any more. It is called once e is not the
// socket's admission any more.
func (e *admission) end() {
	if e.over != nil {
		close(e.over)
	}
}

// settle makes the socket reachable: after it, everything that is emitted to it, to everyone, and to
// the rooms that the hooks have joined arrives here.
func (s *Socket) settle(ctx context.Context) error {
	if err := s.client.hub.awaitLive(ctx); err != nil {
		return err
	}
	_, err := s.join(ctx, 0, Everyone)
	return err
}

// awaitLive returns when the node can be reached by others.
func (h *Hub) awaitLive(ctx context.Context) error {
	if !h.started.Load() {
		h.unstarted.Do(func() {
			h.log.Warn("a client waits: the hub is not running, because Hub.Run has not been called")
		})
	}
	select {
	case <-h.live:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// welcome answers CONNECT, lets go what was held, and opens the way for what comes. It sends nothing
// if the socket is gone. From the answer on the client may send events, so the socket counts as
// connected for what comes in; what goes out is still held, behind what was held before.
func (s *Socket) welcome() {
	h := s.client.hub
	s.mu.Lock()
	admission := s.admission
	if admission == nil {
		s.mu.Unlock()
		return
	}
	s.ns.connected.Add(1)
	s.gate.Set(stateWelcome)
	more := len(admission.held.list) > 0
	v := s.sessionLocked()
	var from uint64
	if v != nil {
		from = v.from // here, while it is the holder
		if v.away {
			v.away = false
			s.changedLocked()
		}
		v.back = time.Now()
		if v.taken {
			h.counters.recovered.Add(1)
		}
	}
	s.mu.Unlock()
	admission.cancel()
	if h.registered.Load() != nil {
		s.tellRegistered(s.Rooms()[1:]...)
	}
	h.counters.connected.Add(1)
	if h.traces() {
		h.log.Debug("connected", append(s.who(), slog.String("transport", s.Transport()))...)
	}
	h.joining.unset(s.client)
	if s.gate.State() == stateGone {
		s.client.rearm(true) // it was set when the socket went, and has just been unset
	}

	head := socketio.AppendHeader(make([]byte, 0, 64), socketio.Packet{Type: socketio.Connect, Namespace: s.ns.name})
	head = append(head, `{"sid":"`...)
	head = s.appendID(head)
	if v != nil {
		head = s.appendPID(append(head, `","pid":"`...), v)
	}
	// More is what is held, or a DISCONNECT, unless the client is no longer interested.
	s.conn.Send(engine.NewPacket(engine.Terms{Control: true, More: more}, append(head, `"}`...)), nil)
	if v != nil {
		s.answer()
		s.replay(admission, v, from)
		return
	}
	s.letGo(admission)
}

// letGo sends what was held for a socket that connects, and opens the way for what comes.
func (s *Socket) letGo(admission *admission) {
	s.mu.Lock()
	for (s.admission != nil || admission.disconnect) && len(admission.held.list) > 0 {
		held := admission.held.list
		admission.held = packets{}
		s.mu.Unlock()
		for _, p := range held {
			s.conn.Send(p, nil)
		}
		s.mu.Lock()
	}
	gone := s.admission == nil
	if !gone {
		s.admission = nil
		s.gate.Set(stateConnected)
		admission.end()
	}
	s.mu.Unlock()
	if gone {
		if admission.disconnect {
			s.sendDisconnect()
		}
		s.client.departed()
	}
}

// hold keeps a packet for a socket that is connecting.
func (s *Socket) hold(p *engine.Packet, from origin) error {
	if v := s.sessionOf(); v != nil {
		return s.pushLogged(v, p, from)
	}
	if p.Volatile() {
		p.Became(s.conn, engine.NotReady)
		return nil
	}
	limits := &s.client.hub.options.Limits
	s.mu.Lock()
	switch s.gate.State() {
	case stateConnected:
		s.mu.Unlock()
		return s.conn.Send(p, &s.gate)
	case stateGone:
		s.mu.Unlock()
		return ErrDisconnected
	}
	held := s.admission.held.push(p.Keep(), limits.Held, limits.HeldBytes)
	if held {
		p.Became(s.conn, engine.Held) // under the lock: it must not be called written before
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	p.Became(s.conn, engine.DroppedNewest)
	if o := p.Overflow(); p.Control() || o == engine.AsConfigured || o == CloseSlow {
		s.conn.Close(ReasonServerClose)
	}
	return ErrSlowConsumer
}

// joinDeadline closes connections that have not joined a namespace in time.
func (h *Hub) joinDeadline(now time.Time) {
	for _, c := range h.joining.passed(now) {
		if c.joined() {
			continue // it was, while the deadline was being set
		}
		h.counters.timedOut.Add(1)
		c.first.conn.Close(ReasonForcedClose)
	}
	for _, c := range h.assembling.passed(now) {
		h.counters.timedOut.Add(1)
		c.first.conn.Close(ReasonParseError)
	}
}
