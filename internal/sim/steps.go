package sim

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/ledger"
	"tether/internal/simbroker"
)

// attachment is a mark as binary.
func attachment(m ledger.Mark) hub.Binary {
	text, _ := json.Marshal(m)
	return text
}

// action is something that can happen. It reports false when it cannot happen now.
type action struct {
	weight int
	do     func(*world) bool
}

var actions = []action{
	{16, (*world).doConnect},
	{6, (*world).doHangUp},
	{6, (*world).doFlap},
	{10, (*world).doJoin},
	{8, (*world).doLeave},
	{6, (*world).doRejoin},
	{40, (*world).doEmit},
	{12, (*world).doBurst},
	{8, (*world).doUnion},
	{4, (*world).doEmitToOne},
	{5, (*world).doAsk},
	{1, (*world).doKick},
	{2, (*world).doStall},
	{2, (*world).doStartNode},
	{1, (*world).doStopNode},
	{1, (*world).doKillNode},
	{2, (*world).doSilence},
	{4, (*world).doHeal},
	{2, (*world).doCut},
	{1, (*world).doSlow},
	{1, (*world).doStopBroker},
	{2, (*world).doRevoke},
	{1, (*world).doAil},
	{2, (*world).doRecover},
	{3, (*world).doStartBroker},
	{1, (*world).doJump},
	{3, (*world).doSetClock},
	{3, (*world).doExpire},
	{4, (*world).doQuestion},
	{5, (*world).doFetch},
	{2, (*world).doGather},
	{3, (*world).doBlob},
	{3, (*world).doBroadcast},
	{3, (*world).doVolatile},
	{4, (*world).doProbe},
	{5, (*world).doQuit},
	{1, (*world).doLurk},
	{2, (*world).doChange},
	{3, (*world).doJoinMany},
	{2, (*world).doKnock},
}

// step does one thing.
func (w *world) step() {
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	for range 5 {
		at := w.rng.IntN(total)
		for _, a := range actions {
			if at -= a.weight; at < 0 {
				if a.do(w) {
					return
				}
				break
			}
		}
	}
}

func (w *world) auth() auth {
	a := auth{User: pick(w, w.users), Refuse: w.chance(20), Emit: w.chance(4)}
	for _, r := range rooms {
		if w.chance(3) {
			a.Rooms = append(a.Rooms, r)
		}
	}
	if w.chance(3) {
		a.Pause = w.upTo(20 * time.Millisecond)
	}
	if w.chance(3) {
		a.Linger = w.upTo(20 * time.Millisecond)
	}
	if w.chance(12) {
		a.Expire = w.upTo(time.Minute) - time.Second
	}
	return a
}

// doConnect connects a client; often somebody emits to it in the instant in which it knows.
func (w *world) doConnect() bool {
	c := w.dial()
	return c != nil
}

func (w *world) dial() *client {
	live := w.live()
	if len(live) == 0 || len(w.present()) > 24 {
		return nil
	}
	n, namespace, a := pick(w, live), pick(w, namespaces), w.auth()
	// Whoever emits at once is chosen now, since the moment itself comes in another goroutine.
	p, also := w.publisherOf(), w.rng.IntN(6)
	var k *wire
	if w.chance(3) { // another namespace of a connection that there is
		k, namespace = w.roomy(namespace)
	}
	if k == nil {
		k = w.attach(n)
	}
	if k == nil {
		return nil
	}
	n = k.node
	if len(k.all()) > 0 && w.chance(4) {
		a.Refuse = true
	}
	c := w.connect(k, namespace, a)
	w.note("%s connects to %s: %+v", c, n.name, a)
	var to string
	switch also {
	case 0, 1:
		to = userRoom(a.User)
	case 2:
		to = everyone
	case 3:
		to = "own"
	default:
		return c
	}
	calm := !w.disturbed
	c.then(func(c *client) {
		if to == "own" {
			to = c.id()
		}
		w.jobs.Go(func() {
			room := namespace + "," + to
			token := w.token(p.name + room)
			token <- struct{}{}
			w.emitOne(p.emitter.In(namespace), p, []string{room}, nil, []hub.Target{target(to)}, false, calm)
			<-token
		})
	})
	return c
}

// roomy finds a connection that has not joined a namespace, or has left it for certain.
func (w *world) roomy(namespace string) (*wire, string) {
	var free []*wire
	for _, k := range w.wires {
		if k.closedFor() == "" && !k.node.ending() && k.free(namespace) {
			free = append(free, k)
		}
	}
	if len(free) == 0 {
		return nil, namespace
	}
	return pick(w, free), namespace
}

// free reports whether the connection may send CONNECT to a namespace.
func (w *wire) free(namespace string) bool {
	for _, c := range w.all() {
		if c.namespace != namespace {
			continue
		}
		c.mu.Lock()
		free := c.kicked || c.refused || c.quits && c.sid != ""
		c.mu.Unlock()
		if !free {
			return false
		}
	}
	return true
}

func (w *world) client() *client {
	present := w.present()
	if len(present) == 0 {
		return nil
	}
	return pick(w, present)
}

func (w *world) doHangUp() bool {
	c := w.client()
	if c == nil {
		return false
	}
	properly := w.chance(2)
	w.note("%s hangs up, properly: %v", c, properly)
	c.hangUp(properly)
	return true
}

// doFlap ends a client's connection about when it begins.
func (w *world) doFlap() bool {
	c := w.dial()
	if c == nil {
		return false
	}
	properly, after := w.chance(2), w.upTo(10*time.Millisecond)
	w.note("%s flaps", c)
	w.jobs.Go(func() {
		pause(after, c.wire.done)
		c.hangUp(properly)
	})
	return true
}

func (w *world) doJoin() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	r := pick(w, rooms)
	w.note("%s joins %q", c, r)
	c.join(r)
	return true
}

func (w *world) doLeave() bool {
	c := w.client()
	if c == nil || !c.alive() || len(c.rooms()) == 0 {
		return false
	}
	r := pick(w, c.rooms())
	if w.devices.Max > 0 && r == userRoom(c.user) {
		return false // who is in a user's room without being registered does not count as a device
	}
	w.note("%s leaves %q", c, r)
	c.leave(r)
	return true
}

// doRejoin leaves a room and joins it again, several times, without waiting.
func (w *world) doRejoin() bool {
	c := w.client()
	if c == nil || !c.alive() || len(c.rooms()) == 0 {
		return false
	}
	r, n := pick(w, c.rooms()), 1+w.rng.IntN(3)
	if w.devices.Max > 0 && r == userRoom(c.user) {
		return false
	}
	w.note("%s rejoins %q %d times", c, r, n)
	for range n {
		c.leave(r)
		c.join(r)
	}
	return true
}

// target is a room to emit to.
func (w *world) target() string {
	switch w.rng.IntN(6) {
	case 0:
		return everyone
	case 1, 2:
		return pick(w, rooms)
	case 3:
		if w.many {
			return manyRoom(w.rng.IntN(2300))
		}
	}
	return userRoom(pick(w, w.users))
}

func (w *world) exceptions() []string {
	if !w.chance(4) {
		return nil
	}
	return []string{pick(w, rooms)}
}

func (w *world) doEmit() bool {
	p, namespace, to := w.publisherOf(), pick(w, namespaces), w.target()
	w.note("%s emits to %q in %s", p.name, to, namespace)
	w.emit(p, namespace, []string{to}, w.exceptions(), 1, w.chance(4))
	return true
}

func (w *world) doBurst() bool {
	p, namespace, to, n := w.publisherOf(), pick(w, namespaces), w.target(), 2+w.rng.IntN(12)
	w.note("%s emits %d times to %q in %s", p.name, n, to, namespace)
	w.emit(p, namespace, []string{to}, nil, n, false)
	return true
}

func (w *world) doUnion() bool {
	p, namespace := w.publisherOf(), pick(w, namespaces)
	to := []string{w.target(), pick(w, rooms), pick(w, rooms)}
	slices.Sort(to)
	to = slices.Compact(to)
	if to[0] == everyone {
		to = to[:1]
	}
	w.note("%s emits to the union of %q in %s", p.name, to, namespace)
	w.emit(p, namespace, to, w.exceptions(), 1, false)
	return true
}

func (w *world) doEmitToOne() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	p := w.publisherOf()
	w.note("%s emits to the socket of %s", p.name, c)
	w.emit(p, c.namespace, []string{c.id()}, w.exceptions(), 1+w.rng.IntN(3), false)
	return true
}

func (w *world) doAsk() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	for range 1 + w.rng.IntN(20) {
		d := strconv.FormatInt(w.rng.Int64N(int64(2*time.Millisecond)), 10)
		c.ask("echo", d, func(k packet) {
			if string(k.data) != "["+d+"]" {
				w.violate("%s got another answer than it asked for: %s", c, k.data)
			}
		})
	}
	return true
}

func (w *world) doKick() bool {
	c := w.client()
	if c == nil || !c.alive() || len(c.rooms()) == 0 {
		return false
	}
	r, p, closing := pick(w, c.rooms()), w.publisherOf(), w.chance(2)
	if w.chance(3) {
		r = c.id()
	}
	w.note("%s disconnects %q in %s", p.name, r, c.namespace)
	w.disconnect(p, c.namespace, r, closing)
	return true
}

// doStall makes a client stop reading for a while, perhaps until its queue is full.
func (w *world) doStall() bool {
	c := w.client()
	if c == nil {
		return false
	}
	d := w.upTo(3 * time.Second)
	w.note("%s does not read for %v", c, d)
	c.wire.mu.Lock()
	c.wire.stall = d
	c.wire.mu.Unlock()
	p, sid := w.publisherOf(), c.id()
	if sid != "" && w.chance(2) {
		w.emit(p, c.namespace, []string{sid}, nil, wireSize+5, false)
	}
	return true
}

func (w *world) doStartNode() bool {
	if len(w.live()) > 3 {
		return false
	}
	n := w.start()
	w.note("%s starts", n.name)
	return true
}

func (w *world) doStopNode() bool {
	live := w.live()
	if len(live) == 0 || len(live) == 1 && !w.chance(4) {
		return false
	}
	n := pick(w, live)
	w.note("%s is told to stop", n.name)
	n.stop()
	return true
}

func (w *world) doKillNode() bool {
	live := w.live()
	if len(live) == 0 || len(live) == 1 && !w.chance(4) {
		return false
	}
	n := pick(w, live)
	w.note("%s is killed", n.name)
	n.kill()
	return true
}

// doJump lets time pass, without anything being done.
func (w *world) doJump() bool {
	d := w.upTo(90 * time.Second)
	if w.chance(10) {
		d = time.Hour
	}
	w.note("%v pass", d)
	w.recover() // a handler that waits for a part of the broker for so long costs its client the connection
	time.Sleep(d)
	return true
}

// doSetClock sets the wall clock of a node, forwards or backwards. Nothing but what is dated by it may
// notice.
func (w *world) doSetClock() bool {
	live := w.live()
	if len(live) == 0 {
		return false
	}
	n, most := pick(w, live), pick(w, []time.Duration{2 * time.Second, time.Minute, time.Hour, 48 * time.Hour})
	d := w.upTo(2*most) - most
	w.note("the wall clock of %s jumps by %v", n.name, d)
	n.clock.jump(d)
	return true
}

// doExpire gives a socket a time to go, on the wall clock of its node, or takes it away again.
func (w *world) doExpire() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	d := w.upTo(20*time.Second) - time.Second
	switch w.rng.IntN(4) {
	case 0:
		d = 0
	case 1:
		d = w.upTo(3 * time.Hour)
	}
	w.note("%s expires in %v", c, d)
	c.ask("expire", strconv.FormatInt(int64(d), 10), func(packet) {})
	return true
}

// doQuit leaves a namespace and keeps the connection.
func (w *world) doQuit() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	w.note("%s quits its namespace", c)
	c.quit()
	return true
}

// doKnock asks a node that drains to take a connection.
func (w *world) doKnock() bool {
	for _, n := range w.nodes {
		if since := n.draining(); since > 0 && !n.isDead() {
			conn := &wire{w: w, node: n, closed: make(chan struct{})}
			r, _ := http.NewRequest("GET", "/socket.io/", nil)
			if _, err := n.hub.Attach(conn, r); !errors.Is(err, hub.ErrDraining) {
				w.violate("%s drains since %v, and answers a new connection with %v", n.name, since, err)
			}
			if n.hub.Ready() == nil {
				w.violate("%s drains since %v, and is ready", n.name, since)
			}
			return true
		}
	}
	return false
}

// doChange goes from one namespace of a connection to another, and is perhaps refused there.
func (w *world) doChange() bool {
	c := w.client()
	if c == nil || !c.alive() || c.node.ending() {
		return false
	}
	namespace, a := pick(w, namespaces), w.auth()
	if !c.wire.free(namespace) {
		return false
	}
	a.Refuse, a.Pause = w.chance(2), w.upTo(20*time.Millisecond)
	w.note("%s goes to %s: %+v", c, namespace, a)
	w.connect(c.wire, namespace, a)
	c.quit()
	return true
}

// doJoinMany joins so many rooms at once that tables grow and batches are full. Few runs have that.
func (w *world) doJoinMany() bool {
	c := w.client()
	if !w.many || c == nil || !c.alive() || w.devices.Max > 0 {
		return false
	}
	n := 400 + w.rng.IntN(500)
	from := w.rng.IntN(3) * 700
	w.note("%s joins %d rooms", c, n)
	c.joinMany(from, n)
	for range 5 {
		to := manyRoom(from + w.rng.IntN(n))
		w.emit(w.publisherOf(), c.namespace, []string{to}, nil, 1, false)
	}
	return true
}

// visit emits to some of the rooms of everybody who is in many, at rest: each table has rooms that are not
// where they are looked for first.
func (w *world) visit() {
	const visits = 100
	for _, c := range w.present() {
		names := c.rooms()
		if len(names) < visits {
			continue
		}
		for range visits {
			w.emit(w.publisherOf(), c.namespace, []string{pick(w, names)}, nil, 1, false)
			time.Sleep(time.Millisecond) // nobody's queue is filled by it
		}
	}
}

func manyRoom(i int) string { return "m" + strconv.Itoa(i) }

// doLurk connects, and says nothing.
func (w *world) doLurk() bool {
	live := w.live()
	if len(live) == 0 {
		return false
	}
	n := pick(w, live)
	w.note("somebody lurks on %s", n.name)
	w.attach(n)
	return true
}

// The faults of the simulated broker.

func (w *world) victim() *node {
	live := w.live()
	if w.cluster == nil || len(live) == 0 {
		return nil
	}
	w.setDisturbed(true)
	return pick(w, live)
}

func (w *world) doSilence() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("%s is cut off in silence", n.name)
	n.peer.Silence()
	return true
}

func (w *world) doHeal() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("%s is well", n.name)
	n.peer.Heal()
	return true
}

func (w *world) doCut() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("the connection of %s is reset", n.name)
	n.peer.Cut()
	return true
}

func (w *world) doSlow() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("%s is slow", n.name)
	n.peer.SlowDown()
	return true
}

func (w *world) doRevoke() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("the broker ends subscriptions of %s", n.name)
	n.peer.Revoke(1 + w.rng.IntN(5))
	return true
}

func (w *world) doAil() bool {
	if w.victim() == nil {
		return false
	}
	part, cause := w.rng.Uint32N(simbroker.Parts), pick(w, []error{broker.ErrUnavailable, broker.ErrRefused})
	w.note("part %d of the broker takes no subscriptions: %v", part, cause)
	w.cluster.Ail(part, cause)
	return true
}

func (w *world) doRecover() bool {
	if w.cluster == nil {
		return false
	}
	part := w.rng.Uint32N(simbroker.Parts)
	w.note("part %d of the broker is well", part)
	w.cluster.Ail(part, nil)
	return true
}

func (w *world) doStopBroker() bool {
	if w.victim() == nil {
		return false
	}
	w.note("the broker stops")
	w.cluster.Stop()
	return true
}

func (w *world) doStartBroker() bool {
	if w.cluster == nil {
		return false
	}
	w.note("the broker starts")
	w.cluster.Start()
	return true
}
