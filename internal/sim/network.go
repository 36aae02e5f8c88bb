package sim

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"tether/engine"
	"tether/internal/ledger"
	"tether/transport"
)

// In some runs the connections are those of package transport, on WebSocket, over a network in memory:
// what a session has taken has to be read by its client, in order, whole and once.

// network is where a node listens.
type network struct {
	conns chan net.Conn
	once  sync.Once
	gone  chan struct{}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.gone:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error {
	n.once.Do(func() { close(n.gone) })
	return nil
}

func (n *network) Addr() net.Addr { return &net.TCPAddr{} }

// listen gives the node a transport. It returns what ends it.
func (n *node) listen() (end func()) {
	n.network = &network{conns: make(chan net.Conn), gone: make(chan struct{})}
	handler, err := transport.NewHandler(engine.AttachFunc(n.accept), transport.Options{
		QueueBytes: 8 << 10, // so that clients that stall can have too much
		Logger:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	server := transport.NewServer("", handler)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(n.network) })
	return func() {
		server.Close()
		handler.Close()
		wg.Wait()
	}
}

// accept is what the transport calls with a new session.
func (n *node) accept(c engine.Conn, r *http.Request) (engine.Receiver, error) {
	number, err := strconv.Atoi(r.URL.Query().Get("wire"))
	if err != nil {
		return nil, err
	}
	n.w.mu.Lock()
	k := n.w.dialed[number]
	n.w.mu.Unlock()
	k.inner.Store(c)
	var conn engine.Conn = k
	if n.w.plan.Conn != nil {
		conn = n.w.plan.Conn(conn)
	}
	if k.hc, err = n.hub.Attach(conn, r); err != nil {
		k.mu.Lock()
		k.closeLocked(engine.ReasonTransportError)
		k.mu.Unlock()
		close(k.told) // the node may end before the client has read that it is refused
		return nil, err
	}
	return receiver{k}, nil
}

// maxPause is how long the transport waits for the hub: PingInterval and PingTimeout.
const maxPause = 45 * time.Second

// strandedFor reports whether the node's link to the broker has been down for that long.
func (n *node) strandedFor(d time.Duration) bool {
	if n.peer == nil {
		return false
	}
	since := n.peer.Troubled()
	return !since.IsZero() && time.Since(since) >= d
}

// receiver is the hub's, watched.
type receiver struct{ k *wire }

func (r receiver) Text(data []byte) error {
	err := r.k.hc.Text(data)
	if err != nil && r.k.closedFor() == "" {
		r.k.w.violate("%s was refused: %v", data, err)
	}
	r.k.mu.Lock()
	then := r.k.unheard[0]
	r.k.unheard = r.k.unheard[1:]
	r.k.mu.Unlock()
	if err == nil && then != nil {
		then()
	}
	return err
}

func (r receiver) Binary(data []byte) error { return r.k.hc.Binary(data) }
func (r receiver) Busy() <-chan struct{}    { return r.k.hc.Busy() }

func (r receiver) Closed(reason engine.Reason) {
	k := r.k
	k.mu.Lock()
	switch reason {
	case engine.ReasonPingTimeout, engine.ReasonParseError:
		if reason == engine.ReasonPingTimeout && k.node.strandedFor(maxPause) {
			break // a handler waits for the broker, and the client is read no more
		}
		k.w.violate("%v: a connection ended for %q, and its client did nothing wrong", k.clients, reason)
	}
	k.closeLocked(reason)
	k.mu.Unlock()
	k.hc.Closed(reason)
	for _, c := range k.all() {
		c.hubKnows()
	}
	close(k.told)
}

// attachReal dials the node. Whether it is taken shows later.
func (w *world) attachReal(k *wire) *wire {
	k.hesitation = time.Duration(k.rng.IntN(3)) * maxHesitation / 2
	k.told, k.open = make(chan struct{}), make(chan struct{})
	var server net.Conn
	k.pipe, server = net.Pipe()
	w.mu.Lock()
	k.number = len(w.dialed)
	w.dialed = append(w.dialed, k)
	w.mu.Unlock()
	w.wires = append(w.wires, k)
	w.readers.Go(func() { k.readReal(server) })
	return k
}

// sendReal hands a packet to the session, which may use its memory again: what is due is a copy. The lock is held, so
// that what is due is in order.
func (w *wire) sendReal(p *engine.Packet, from *engine.Gate, now ledger.Moment) error {
	due, err := engine.ParsePacket(engine.Terms{Volatile: p.Volatile()}, bytes.Clone(p.Frames()))
	if err != nil {
		w.w.violate("%v: a packet that cannot be read was sent: %v", w.all(), err)
		return err
	}
	w.due = append(w.due, sent{due, crc32.ChecksumIEEE(p.Frames()), now})
	err = w.inner.Load().(engine.Conn).Send(p, from)
	if err == nil {
		return nil
	}
	w.due = w.due[:len(w.due)-1]
	if errors.Is(err, engine.ErrSlowConsumer) {
		w.breakLocked(engine.ReasonServerClose)
		return err
	}
	return engine.ErrDisconnected
}

// speakReal writes what the client has to say.
func (w *wire) speakReal() {
	select {
	case <-w.open:
	case <-w.done:
		return
	}
	for {
		w.mu.Lock()
		if len(w.out) == 0 {
			w.speaking = false
			w.mu.Unlock()
			return
		}
		s := w.out[0]
		w.out = w.out[1:]
		if !s.engine {
			w.unheard = append(w.unheard, s.then)
		}
		w.mu.Unlock()
		text := s.text
		if !s.engine {
			text = append([]byte{'4'}, text...)
		}
		err := w.frame(1, text)
		for _, a := range s.attachments {
			if err == nil {
				err = w.frame(2, a)
			}
		}
		if err != nil {
			return // the reader sees that too
		}
	}
}

// frame writes a frame with a mask that changes nothing.
func (w *wire) frame(opcode byte, payload []byte) error {
	frame := []byte{0x80 | opcode}
	if n := len(payload); n < 126 {
		frame = append(frame, 0x80|byte(n))
	} else {
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	}
	frame = append(append(frame, 0, 0, 0, 0), payload...)
	_, err := w.pipe.Write(frame)
	return err
}

// readReal connects and reads until the connection has ended.
func (w *wire) readReal(server net.Conn) {
	refused, err := w.shake(server)
	if err == nil {
		err = w.readFrames()
	}
	w.pipe.Close()
	if refused {
		if !w.node.ending() {
			w.w.violate("%s does not take a connection: %v", w.node.name, err)
		}
	}
	if w.inner.Load() == nil || refused {
		w.mu.Lock()
		w.closeLocked(engine.ReasonTransportError)
		w.mu.Unlock()
	} else {
		<-w.told
	}
	w.mu.Lock()
	left := 0
	for _, s := range w.due {
		if !s.p.Volatile() {
			left++
		}
	}
	if left > 0 && w.byHub && !w.broken {
		w.w.violate("%v: %d packets were thrown away, the connection was closed for %q: the first is %q", w.clients, left, w.reason, w.due[0].p.Text())
	}
	reason := w.reason
	w.mu.Unlock()
	for _, c := range w.all() {
		c.ended(reason)
	}
	close(w.done)
}

// shake opens the WebSocket.
func (w *wire) shake(server net.Conn) (refused bool, err error) {
	select {
	case w.node.network.conns <- server:
	case <-w.node.network.gone:
		return false, net.ErrClosed
	}
	_, err = fmt.Fprintf(w.pipe, "GET /socket.io/?EIO=4&transport=websocket&wire=%d HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n", w.number)
	if err != nil {
		return false, err
	}
	w.buffered = bufio.NewReader(w.pipe)
	resp, err := http.ReadResponse(w.buffered, nil)
	if err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return true, fmt.Errorf("status %d", resp.StatusCode)
	}
	return false, nil
}

// readFrames reads until the end, or a close frame.
func (w *wire) readFrames() error {
	var text []byte
	var attachments [][]byte
	missing := 0
	for {
		var head [2]byte
		if _, err := io.ReadFull(w.buffered, head[:]); err != nil {
			return err
		}
		n := uint64(head[1])
		switch n {
		case 126, 127:
			size := make([]byte, 2+6*(n-126))
			if _, err := io.ReadFull(w.buffered, size); err != nil {
				return err
			}
			n = 0
			for _, b := range size {
				n = n<<8 | uint64(b)
			}
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(w.buffered, payload); err != nil {
			return err
		}
		switch {
		case head[0] == 0x88:
			return nil
		case head[0] == 0x82 && missing > 0:
			attachments = append(attachments, payload)
			missing--
		case head[0] != 0x81 || n == 0 || missing > 0:
			w.w.violate("a frame that begins with %x, and %d attachments are missing", head, missing)
		case payload[0] == '0':
			close(w.open)
			continue
		case payload[0] == '2':
			w.enqueue(said{text: []byte{'3'}, engine: true})
			continue
		case payload[0] != '4':
			w.w.violate("a packet %q", payload)
		default:
			text, attachments = payload, nil
			if payload[1] == '5' || payload[1] == '6' {
				digits, _, _ := bytes.Cut(payload[2:], []byte("-"))
				missing, _ = strconv.Atoi(string(digits))
			}
		}
		if missing == 0 {
			w.match(text, attachments)
		}
	}
}

// match takes what was read for what is due.
func (w *wire) match(text []byte, attachments [][]byte) {
	for {
		w.mu.Lock()
		if len(w.due) == 0 {
			w.mu.Unlock()
			w.w.violate("%v got %q, and nothing was sent", w.all(), text)
			return
		}
		s := w.due[0]
		same := bytes.Equal(s.p.Text(), text) && s.p.Attachments() == len(attachments)
		for i := 0; same && i < len(attachments); i++ {
			same = bytes.Equal(s.p.Attachment(i), attachments[i])
		}
		if !same && !s.p.Volatile() {
			w.mu.Unlock()
			w.w.violate("%v got %q, and %q was due", w.all(), text, s.p.Text())
			return
		}
		w.head, w.due = s.at, w.due[1:]
		w.mu.Unlock()
		if same {
			w.take(s)
			return
		}
	}
}
