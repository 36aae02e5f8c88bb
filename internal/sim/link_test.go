package sim

import (
	"encoding/json"
	"hash/crc32"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"tether/engine"
)

// link is a connection: a bounded queue, and a reader that takes its time. It is the engine.Conn of a transport
// that keeps its promises.
type link struct {
	w        *recoveringWorld
	t        *traveller
	node     *recoveringNode
	receiver engine.Receiver
	began    moment
	forged   string        // the ID of the session that it must not get
	arrived  chan struct{} // a token
	closed   chan struct{} // the hub has closed it, or has been told
	gone     chan struct{} // closed when the client has no connection any more
	turn     chan struct{} // a token: held by the one that calls the hub

	mu     sync.Mutex
	rng    *rand.Rand    // guarded by mu
	queue  []parcelled   // guarded by mu
	logs   []*engine.Log // guarded by mu
	reason engine.Reason // guarded by mu
	lost   bool          // guarded by mu; the client reads nothing any more
	open   bool          // guarded by mu; the client has read the answer to CONNECT
	over   moment        // guarded by mu; the hub has been told that it has ended
	stall  time.Duration // guarded by mu
	behind chan struct{} // guarded by mu; nil unless somebody waits
}

type parcelled struct {
	p   *engine.Packet
	sum uint32
}

const linkSize = 32

// attach opens a connection. It returns nil if the node does not take it.
func (w *recoveringWorld) attach(t *traveller, n *recoveringNode) *link {
	l := &link{
		w: w, t: t, node: n, arrived: make(chan struct{}, 1), closed: make(chan struct{}), gone: make(chan struct{}),
		turn: make(chan struct{}, 1), rng: rand.New(rand.NewPCG(w.seed, 7<<32+uint64(w.moment.Add(1)))),
	}
	receiver, err := n.hub.Attach(l, httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket", nil))
	if err != nil {
		return nil
	}
	l.receiver = receiver
	n.mu.Lock()
	n.links = append(n.links, l)
	dead := n.dead
	n.mu.Unlock()
	w.readers.Go(l.read)
	if dead {
		l.breakOff()
	}
	return l
}

func (l *link) connect(namespace string, c credentials) {
	l.mu.Lock()
	l.began = l.w.now()
	l.mu.Unlock()
	l.w.note("client %d connects to %s in %s, with a session: %v", c.Client, l.node.name, namespace, c.PID != "")
	text, _ := json.Marshal(c)
	l.say(header("0", namespace) + string(text))
}

// say tells the hub something, one thing after the other.
func (l *link) say(text string) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.mu.Lock()
	over := l.lost || l.reason != ""
	l.mu.Unlock()
	if over {
		return
	}
	if err := l.receiver.Text([]byte(text)); err != nil {
		pause(10*time.Millisecond, l.closed) // the session may just be taken from it
		l.mu.Lock()
		over := l.reason != ""
		l.mu.Unlock()
		if !over {
			l.w.violate("%v: %s: %v", l.t, text, err)
		}
	}
}

func (l *link) ID() string        { return "secret" }
func (l *link) Transport() string { return "websocket" }

func (l *link) Behind() (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason != "" {
		return nil, engine.ErrDisconnected
	}
	if len(l.queue) < linkSize/2 {
		return nil, nil
	}
	if l.behind == nil {
		l.behind = make(chan struct{})
	}
	return l.behind, nil
}

func (l *link) Send(p *engine.Packet, from *engine.Gate) error { return l.send(p, from, nil, nil) }

func (l *link) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	return l.send(&e.Packet, from, e, log)
}

func (l *link) send(p *engine.Packet, from *engine.Gate, e *engine.Entry, log *engine.Log) error {
	l.mu.Lock()
	hesitation := time.Duration(0)
	if l.rng.IntN(8) == 0 {
		hesitation = time.Duration(l.rng.Int64N(int64(2 * time.Millisecond)))
	}
	l.mu.Unlock()
	if hesitation > 0 {
		time.Sleep(hesitation) // as if the goroutine had lost its processor here
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason != "" || from.Shut() {
		return engine.ErrDisconnected
	}
	if p.Volatile() && len(l.queue) > 0 {
		p.Became(l, engine.NotReady)
		return nil
	}
	if len(l.queue) >= linkSize {
		l.closeLocked(engine.ReasonServerClose)
		l.loseLocked()
		if log != nil {
			return engine.ErrDisconnected
		}
		return engine.ErrSlowConsumer
	}
	if log != nil {
		if !log.Add(e, from) {
			return engine.ErrDisconnected
		}
		if !slices.Contains(l.logs, log) {
			l.logs = append(l.logs, log)
		}
	}
	l.queue = append(l.queue, parcelled{p.Keep(), crc32.ChecksumIEEE(p.Frames())})
	p.Became(l, engine.Queued)
	select {
	case l.arrived <- struct{}{}:
	default:
	}
	return nil
}

func (l *link) Close(r engine.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeLocked(r)
}

func (l *link) closeLocked(r engine.Reason) {
	if l.reason != "" {
		return
	}
	l.reason = r
	close(l.closed)
	if l.behind != nil {
		close(l.behind)
		l.behind = nil
	}
}

func (l *link) isOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open && !l.lost && l.reason == ""
}

// breakOff loses the connection, and the hub knows it.
func (l *link) breakOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeLocked(engine.ReasonTransportError)
	l.loseLocked()
}

// abandon loses the connection, and the hub believes it alive for a while.
func (l *link) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost || l.reason != "" {
		return
	}
	l.loseLocked()
	d := time.Duration(l.rng.Int64N(int64(25 * time.Second)))
	l.w.readers.Go(func() {
		pause(d, l.closed)
		l.Close(engine.ReasonPingTimeout)
	})
}

// loseLocked ends the connection for the client.
func (l *link) loseLocked() {
	if l.lost {
		return
	}
	l.lost = true
	if l.forged == "" {
		if a := l.t.account(); a != nil && l.open {
			a.closes()
		}
	}
	close(l.gone)
}

// read takes packets until the connection has ended, and tells the hub.
func (l *link) read() {
	for {
		l.mu.Lock()
		ended := l.reason != "" && (l.lost || len(l.queue) == 0)
		var next *parcelled
		if !l.lost && len(l.queue) > 0 {
			next = &l.queue[0]
		}
		d := l.latencyLocked()
		l.mu.Unlock()
		if ended {
			break
		}
		if next == nil {
			select {
			case <-l.arrived:
			case <-l.closed:
			}
			continue
		}
		pause(d, l.gone)
		l.take()
	}
	l.mu.Lock()
	l.loseLocked()
	reason := l.reason
	l.mu.Unlock()
	l.turn <- struct{}{}
	l.receiver.Closed(reason)
	<-l.turn
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = l.w.now()
}

func (l *link) latencyLocked() time.Duration {
	if d := l.stall; d > 0 {
		l.stall = 0
		return d
	}
	if l.rng.IntN(2) == 0 {
		return 0
	}
	return time.Duration(l.rng.Int64N(int64(2 * time.Millisecond)))
}

// take reads the packet at the head of the queue, and has the client handle it.
func (l *link) take() {
	l.mu.Lock()
	if l.lost || len(l.queue) == 0 {
		l.mu.Unlock()
		return
	}
	next := l.queue[0]
	l.queue = l.queue[1:]
	if l.behind != nil && len(l.queue) < linkSize/2 {
		close(l.behind)
		l.behind = nil
	}
	l.mu.Unlock()
	k, err := parse(sent{p: next.p, sum: next.sum})
	switch {
	case err != nil:
		l.w.violate("%v: %v", l.t, err)
	case l.forged != "":
		var said struct{ Sid string }
		if _ = json.Unmarshal(k.data, &said); k.kind == '0' && said.Sid == l.forged {
			l.w.violate("somebody has the session of %v with what is forged", l.t)
		}
	default:
		l.t.took(l, k)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 && !l.lost && l.reason == "" && l.rng.IntN(6) == 0 { // a ping and its pong
		for _, log := range l.logs {
			log.Mark(time.Now())
			log.Confirm(time.Now())
		}
	}
}
