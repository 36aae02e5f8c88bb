package sim

import (
	"bufio"
	"bytes"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tether/engine"
	"tether/internal/ledger"
)

// wire is a connection: a bounded queue, a reader that takes its time, and a writer that waits while
// the hub is busy. It is the engine.Conn of a transport that keeps its promises. A connection has a client
// for each namespace.
type wire struct {
	w          *world
	node       *node
	hc         engine.Receiver
	hesitation time.Duration // of the hub's goroutine, before the answer to CONNECT
	attached   time.Time
	queue      chan sent
	closed     chan struct{} // Close was called, or the queue has overflown
	turn       chan struct{} // of one: held by the goroutine that calls the hub
	done       chan struct{} // closed when the hub has been told

	// In a run with the real transport; see network.go.
	number   int           // among the wires
	inner    atomic.Value  // engine.Conn: the session
	pipe     net.Conn      // the client's end
	told     chan struct{} // closed when the hub has been told of the end
	open     chan struct{} // closed when the client knows the session
	buffered *bufio.Reader // owned by the reader

	welcomed atomic.Bool // the last packet was an answer to CONNECT

	mu       sync.Mutex
	rng      *rand.Rand               // guarded by mu
	reason   engine.Reason            // guarded by mu; "" while open
	broken   bool                     // guarded by mu; what is queued does not arrive
	head     ledger.Moment            // guarded by mu; when the oldest packet that is not read was sent
	stall    time.Duration            // guarded by mu; that it will not read for
	clients  []*client                // guarded by mu; in the order of their CONNECTs
	serving  map[string]*client       // guarded by mu; by namespace: the client that the hub has answered
	reading  map[string]*client       // guarded by mu; by namespace: the client that has got the answer
	farewell map[string]time.Time     // guarded by mu; by namespace: when DISCONNECT was sent
	answered map[string]ledger.Moment // guarded by mu; by namespace: when the last answer to CONNECT was sent
	idle     time.Time                // guarded by mu; since when nobody is connected
	joined   []*client                // guarded by mu; that the hub has told that they are connected, and not left
	out      []said                   // guarded by mu; what waits to be told to the hub
	speaking bool                     // guarded by mu; somebody tells it
	due      []sent                   // guarded by mu; what the session has taken and the client has not read
	unheard  []func()                 // guarded by mu; what to call when the hub has taken what was written
	byHub    bool                     // guarded by mu; the hub has closed it
}

// sent is a packet in the queue, and what it looked like.
type sent struct {
	p   *engine.Packet
	sum uint32
	at  ledger.Moment
}

// said is a packet of a client's.
type said struct {
	text        []byte
	attachments [][]byte
	then        func() // called when the hub has taken it; nil: nothing
	engine      bool   // it is no message, but for the transport
}

const (
	wireSize      = 64
	maxHesitation = 5 * time.Millisecond
)

// attach opens a connection to a node. It returns nil when the node does not take it.
func (w *world) attach(n *node) *wire {
	k := &wire{
		w: w, node: n, rng: w.fork(), attached: time.Now(), idle: time.Now(),
		queue: make(chan sent, wireSize), closed: make(chan struct{}), turn: make(chan struct{}, 1), done: make(chan struct{}),
		serving: make(map[string]*client), reading: make(map[string]*client), farewell: make(map[string]time.Time),
		answered: make(map[string]ledger.Moment),
	}
	if w.real {
		return w.attachReal(k)
	}
	k.hesitation = time.Duration(k.rng.IntN(3)) * maxHesitation / 2
	var conn engine.Conn = k
	if w.plan.Conn != nil {
		conn = w.plan.Conn(conn)
	}
	r, _ := http.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket", nil)
	r.RemoteAddr = "127.0.0.1:1"
	hc, err := n.hub.Attach(conn, r)
	if err != nil {
		if !n.ending() {
			w.violate("Attach to %s: %v", n.name, err)
		}
		return nil
	}
	k.hc = hc
	w.wires = append(w.wires, k)
	w.readers.Go(k.read)
	return k
}

func (w *wire) ID() string        { return "secret" }
func (w *wire) Transport() string { return "websocket" }

// Behind is never asked: no handler in the simulation waits.
func (w *wire) Behind() (<-chan struct{}, error) { return nil, nil }

// welcome is how long the hub takes at most to send what it has held behind an answer to CONNECT.
const welcome = 20 * maxHesitation

// letGo notes that the client of a namespace may be in no room any more: since now, or since the answer to
// its CONNECT, if this DISCONNECT may have had to wait behind what was held.
func (w *wire) letGo(namespace string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := w.w.book.Now()
	if at := w.answered[namespace]; since.At.Sub(at.At) < welcome {
		since = at
	}
	if c := w.serving[namespace]; c != nil {
		c.rec.Leave("*", since)
	}
}

func (w *wire) Send(p *engine.Packet, from *engine.Gate) error {
	text := p.Text()
	if bytes.HasPrefix(text, []byte("41")) { // the hub has let go of it already
		w.letGo(namespaceOf(text))
	}
	if bytes.HasPrefix(text, []byte("40")) || w.welcomed.CompareAndSwap(true, false) || w.hesitates() {
		// As if the goroutine had lost its processor here: much can happen around this packet, and around
		// the next.
		time.Sleep(w.hesitation)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reason != "" || from.Shut() {
		return engine.ErrDisconnected
	}
	now, namespace := w.w.book.Now(), namespaceOf(text)
	c := w.serving[namespace]
	if at := w.farewell[namespace]; !at.IsZero() && text[1] != '0' && text[1] != '4' {
		w.w.violate("%v was sent %q after DISCONNECT", c, text)
	}
	switch text[1] {
	case '0':
		w.welcomed.Store(true)
		w.answered[namespace] = now
		delete(w.farewell, namespace)
		if i := slices.IndexFunc(w.clients, func(c *client) bool { return c.namespace == namespace && !c.answered }); i >= 0 {
			w.clients[i].answered = true
			w.serving[namespace] = w.clients[i]
			w.idle, w.joined = time.Time{}, append(w.joined, w.clients[i])
		} else {
			w.w.violate("%q answers nobody", text)
		}
	case '1':
		w.farewell[namespace] = now.At
		if c == nil {
			w.w.violate("%q is for nobody", text)
			break
		}
		c.rec.Leave("*", now)
		w.w.judge(c, now)
		w.partLocked(c)
	case '4':
		if i := slices.IndexFunc(w.clients, func(c *client) bool { return c.namespace == namespace && !c.answered }); i >= 0 {
			w.clients[i].answered = true
		}
	}
	if p.Volatile() && len(w.queue) > 0 {
		return nil
	}
	if w.pipe != nil {
		return w.sendReal(p, from, now)
	}
	select {
	case w.queue <- sent{p.Keep(), crc32.ChecksumIEEE(p.Frames()), now}:
		return nil
	default:
	}
	w.breakLocked(engine.ReasonServerClose)
	return engine.ErrSlowConsumer
}

func (w *wire) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	if !log.Add(e, from) {
		return engine.ErrDisconnected
	}
	return w.Send(&e.Packet, from)
}

// hesitates is true for one packet in eight.
func (w *wire) hesitates() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(8) == 0
}

// part notes that the hub knows that a client has left.
func (w *wire) part(c *client) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partLocked(c)
}

func (w *wire) partLocked(c *client) {
	if i := slices.Index(w.joined, c); i >= 0 {
		if w.joined = slices.Delete(w.joined, i, i+1); len(w.joined) == 0 {
			w.idle = time.Now()
		}
	}
}

func (w *wire) Close(reason engine.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byHub = w.byHub || w.reason == ""
	w.closeLocked(reason)
	if inner, ok := w.inner.Load().(engine.Conn); ok {
		inner.Close(reason)
	}
}

func (w *wire) closeLocked(reason engine.Reason) {
	if w.reason != "" {
		return
	}
	w.reason = reason
	for _, c := range w.clients {
		if reason == engine.ReasonShutdown {
			c.rec.SentAway()
		}
	}
	now := w.w.book.Now()
	for _, c := range w.clients {
		c.rec.Leave("*", now)
	}
	if reason == engine.ReasonForcedClose && (w.idle.IsZero() || time.Since(w.idle) < joinTimeout-time.Second) {
		w.w.violate("a connection to %s was given up after %v, idle since %v: %v", w.node.name, time.Since(w.attached), w.idle, w.clients)
	}
	if reason == engine.ReasonShutdown {
		w.node.closes()
	}
	close(w.closed)
}

// breakOff loses the connection and everything that is queued.
func (w *wire) breakOff(reason engine.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breakLocked(reason)
}

func (w *wire) breakLocked(reason engine.Reason) {
	w.broken = true
	if w.pipe != nil {
		w.pipe.Close()
	}
	if w.head == (ledger.Moment{}) && len(w.due) > 0 {
		w.head = w.due[0].at
	}
	if w.head != (ledger.Moment{}) {
		for _, c := range w.clients {
			c.rec.Leave("*", w.head)
		}
	}
	w.closeLocked(reason)
}

func (w *wire) isBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

func (w *wire) closedFor() engine.Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason
}

// all are the clients of the connection.
func (w *wire) all() []*client {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.clients)
}

// say tells the hub something, after what was said before, once it is ready for that.
func (w *wire) say(text string, attachments ...[]byte) {
	w.enqueue(said{text: []byte(text), attachments: attachments})
}

// sayThen is say, and calls then when the hub has taken it.
func (w *wire) sayThen(text string, then func()) { w.enqueue(said{text: []byte(text), then: then}) }

func (w *wire) enqueue(s said) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = append(w.out, s)
	if !w.speaking {
		w.speaking = true
		if w.pipe != nil {
			w.w.readers.Go(w.speakReal)
		} else {
			w.w.readers.Go(w.speak)
		}
	}
}

func (w *wire) speak() {
	for {
		select {
		case w.turn <- struct{}{}:
		case <-w.done:
			return
		}
		w.mu.Lock()
		if len(w.out) == 0 || w.reason != "" {
			w.speaking = false
			w.mu.Unlock()
			<-w.turn
			return
		}
		s := w.out[0]
		w.out = w.out[1:]
		w.mu.Unlock()
		err := w.hc.Text(s.text)
		for _, a := range s.attachments {
			if err == nil {
				err = w.hc.Binary(a)
				clear(a) // the hub may not keep it
			}
		}
		clear(s.text)
		<-w.turn
		if err == nil && s.then != nil {
			s.then()
		}
		if err != nil {
			if w.closedFor() == "" {
				w.w.violate("a packet to %s was refused: %v", w.node.name, err)
			}
			w.Close(engine.ReasonOf(err))
			return
		}
		for busy := w.hc.Busy(); busy != nil; busy = w.hc.Busy() {
			select {
			case <-busy:
			case <-w.done:
				return
			}
		}
	}
}
