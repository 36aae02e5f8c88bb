package hubtest

import (
	"crypto/tls"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"tether/engine"
	"tether/hub"
)

const (
	queueBytes  = 1 << 20          // the default of transport.Options.QueueBytes
	pingTimeout = 45 * time.Second // those of PingInterval and PingTimeout together
	address     = "192.0.2.1:1234" // of a client, as in net/http/httptest
)

// conn is the connection of a client: the engine.Conn of a transport without sockets. What the hub sends is
// handed to the client at once; it waits in a queue only while the client reads nothing.
type conn struct {
	node     *Node
	limit    int             // of the queue, in bytes
	turn     chan struct{}   // of one: held by the caller of the receiver
	receiver engine.Receiver // guarded by turn; nil if the node did not take the connection
	ending   chan struct{}   // closed by Close
	ended    chan struct{}   // closed when the hub has been told

	mu      sync.Mutex
	clients map[string]*Client // guarded by mu; by namespace
	reason  engine.Reason      // guarded by mu; "" while open
	lost    bool               // guarded by mu; nothing gets through any more
	stuck   bool               // guarded by mu; the client reads nothing
	queue   []*engine.Packet   // guarded by mu; in order
	size    int                // guarded by mu; of the queue, in bytes
	behind  chan struct{}      // guarded by mu; closed when less than half of the queue is in use; nil unless somebody waits
}

// attach opens a connection to the node.
func (n *Node) attach(h Handshake) (*conn, error) {
	k := &conn{
		node: n, limit: h.QueueBytes,
		turn: make(chan struct{}, 1), ending: make(chan struct{}), ended: make(chan struct{}),
		clients: make(map[string]*Client),
	}
	if k.limit <= 0 {
		k.limit = queueBytes
	}
	n.mu.Lock()
	n.conns = append(n.conns, k)
	n.mu.Unlock()
	k.turn <- struct{}{}
	receiver, err := n.Hub.Attach(k, h.request())
	if err == nil {
		k.receiver = receiver
	}
	<-k.turn
	if err != nil {
		k.Close(engine.ReasonTransportError)
		return nil, err
	}
	return k, nil
}

// request is the first request of a client that connects over WebSocket.
func (h Handshake) request() *http.Request {
	query := url.Values{"EIO": {"4"}, "transport": {"websocket"}}
	maps.Copy(query, h.Query)
	header := http.Header{}
	maps.Copy(header, h.Header)
	r := &http.Request{
		Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: "example.com", Header: header, RemoteAddr: h.Address, TLS: &tls.ConnectionState{},
		URL: &url.URL{Path: "/socket.io/", RawQuery: query.Encode()},
	}
	r.RequestURI = r.URL.RequestURI()
	if r.RemoteAddr == "" {
		r.RemoteAddr = address
	}
	return r
}

func (k *conn) ID() string        { return "hubtest" }
func (k *conn) Transport() string { return "websocket" }

func (k *conn) Send(p *engine.Packet, from *engine.Gate) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.reason != "" || from.Shut():
		return engine.ErrDisconnected
	case k.lost:
		p.Became(k, engine.Written) // it is on its way
		return nil
	case !k.stuck:
		k.deliverLocked(p)
		return nil
	case p.Volatile():
		p.Became(k, engine.NotReady)
		return nil
	}
	return k.queueLocked(p.Keep())
}

func (k *conn) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reason != "" || from.Shut() {
		return engine.ErrDisconnected
	}
	if k.lost || !k.stuck {
		if !log.Add(e, from) {
			return engine.ErrDisconnected
		}
		if k.lost {
			e.Became(k, engine.Written)
		} else {
			k.deliverLocked(&e.Packet)
		}
		return nil
	}
	if e.Volatile() {
		e.Became(k, engine.NotReady)
		return nil
	}
	if err := k.queueLocked(&e.Packet); err != nil {
		if k.reason != "" {
			return engine.ErrDisconnected
		}
		return err
	}
	if !log.Add(e, from) {
		k.dropLocked(func(p *engine.Packet) bool { return p == &e.Packet })
		return engine.ErrDisconnected
	}
	return nil
}

// deliverLocked hands a packet to the client that it is for.
func (k *conn) deliverLocked(p *engine.Packet) {
	in, err := parse(p)
	if err != nil {
		k.node.cluster.t.Errorf("hubtest: a client cannot read %q: %v", p.Text(), err)
		return
	}
	if c := k.clients[in.Namespace]; c != nil {
		c.take(in)
	}
	p.Became(k, engine.Written)
}

// queueLocked is what a transport does for a client that reads nothing: a packet makes room for itself, of those
// that may be dropped for others, and of the one that it replaces.
func (k *conn) queueLocked(p *engine.Packet) error {
	old := slices.IndexFunc(k.queue, func(o *engine.Packet) bool { return p.Key() != "" && o.Key() == p.Key() })
	left := 0 // bytes that stay whatever comes
	for i, o := range k.queue {
		if i != old && !yields(o) {
			left += o.Size()
		}
	}
	switch {
	case left == 0 || left+p.Size() <= k.limit:
		if old >= 0 {
			k.queue[old].Became(k, engine.Replaced)
			k.queue = slices.Delete(k.queue, old, old+1)
			k.dropLocked(func(*engine.Packet) bool { return false })
		}
		for len(k.queue) > 0 && k.size+p.Size() > k.limit {
			k.dropOldestLocked()
		}
	case p.Control() && k.size+p.Size() <= k.limit+k.limit/4:
	case p.Control() || p.Overflow() != engine.DropOldest && p.Overflow() != engine.DropNewest:
		p.Became(k, engine.TooSlow)
		k.closeLocked(engine.ReasonServerClose)
		return engine.ErrSlowConsumer
	default:
		p.Became(k, engine.DroppedNewest)
		return engine.ErrSlowConsumer
	}
	p.Became(k, engine.Queued)
	k.queue = append(k.queue, p)
	k.size += p.Size()
	return nil
}

// yields reports whether a packet may be dropped for another.
func yields(p *engine.Packet) bool { return !p.Control() && p.Overflow() == engine.DropOldest }

// dropLocked drops packets that wait.
func (k *conn) dropLocked(which func(*engine.Packet) bool) {
	k.queue = slices.DeleteFunc(k.queue, which)
	k.size = 0
	for _, p := range k.queue {
		k.size += p.Size()
	}
}

// dropOldestLocked drops the oldest packet that may be dropped for others. There must be one.
func (k *conn) dropOldestLocked() {
	dropped := false
	k.dropLocked(func(o *engine.Packet) bool {
		first := !dropped && yields(o)
		if first {
			o.Became(k, engine.DroppedOldest)
		}
		dropped = dropped || first
		return first
	})
}

func (k *conn) Behind() (<-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.reason != "":
		return nil, engine.ErrDisconnected
	case 2*k.size < k.limit:
		return nil, nil
	case k.behind == nil:
		k.behind = make(chan struct{})
	}
	return k.behind, nil
}

func (k *conn) Close(reason engine.Reason) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closeLocked(reason)
}

func (k *conn) closeLocked(reason engine.Reason) {
	if k.reason != "" {
		return
	}
	k.reason = reason
	for _, p := range k.queue {
		p.Became(k, engine.Lost)
	}
	k.queue, k.size = nil, 0
	k.caughtUpLocked()
	close(k.ending)
	k.node.cluster.wg.Go(func() {
		k.turn <- struct{}{} // kept: the hub is told nothing more
		if k.receiver != nil {
			k.receiver.Closed(reason)
		}
		k.node.forget(k)
		k.mu.Lock()
		for _, c := range k.clients {
			c.end(reason)
		}
		k.mu.Unlock()
		close(k.ended)
	})
}

func (k *conn) caughtUpLocked() {
	if k.behind != nil {
		close(k.behind)
		k.behind = nil
	}
}

// say tells the hub something, once it is ready for that. It reports false when the connection has ended.
func (k *conn) say(text string, attachments ...[]byte) bool {
	select {
	case k.turn <- struct{}{}:
	case <-k.ending:
		return false
	}
	defer func() { <-k.turn }()
	if k.isLost() {
		return true
	}
	err := k.receiver.Text([]byte(strings.TrimPrefix(text, "4")))
	for _, a := range attachments {
		if err == nil {
			err = k.receiver.Binary(slices.Clone(a))
		}
	}
	if err != nil {
		k.Close(engine.ReasonOf(err))
		return false
	}
	for busy := k.receiver.Busy(); busy != nil; busy = k.receiver.Busy() {
		select {
		case <-busy:
		case <-k.ending:
			return true
		}
	}
	return true
}

func (k *conn) isLost() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost || k.reason != ""
}

// vanish loses the connection without a word; it ends when the heartbeat has failed.
func (k *conn) vanish() {
	k.mu.Lock()
	k.lost = true
	k.mu.Unlock()
	k.node.cluster.wg.Go(func() {
		timer := time.NewTimer(pingTimeout)
		defer timer.Stop()
		select {
		case <-timer.C:
			k.Close(hub.ReasonPingTimeout)
		case <-k.ending:
		}
	})
}

// stopReading lets what comes wait, until readAgain.
func (k *conn) stopReading() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stuck = true
}

func (k *conn) readAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stuck = false
	for _, p := range k.queue {
		k.deliverLocked(p)
	}
	k.queue, k.size = nil, 0
	k.caughtUpLocked()
}

// leave forgets a client that has left its namespace. The connection of a client that has left its last one
// ends, as that of socket.io-client does.
func (k *conn) leave(c *Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clients[c.namespace] == c {
		delete(k.clients, c.namespace)
	}
	if len(k.clients) == 0 {
		k.closeLocked(hub.ReasonTransportClose)
	}
}
