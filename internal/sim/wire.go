package sim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
	"sync"
	"time"

	"tether/hub"
	"tether/internal/ledger"
)

// wire is a client's connection: a bounded queue, and a reader that takes its time. It is the hub.Conn
// of a transport that keeps its promises.
type wire struct {
	client *client
	queue  chan sent
	closed chan struct{} // Close was called, or the queue has overflown

	mu       sync.Mutex
	reason   hub.Reason    // guarded by mu; "" while open
	broken   bool          // guarded by mu; what is queued does not arrive
	head     ledger.Moment // guarded by mu; when the oldest packet that is not read was sent
	farewell time.Time     // guarded by mu; when DISCONNECT was sent
}

// sent is a packet in the queue, and what it looked like.
type sent struct {
	p   *hub.Packet
	sum uint32
	at  ledger.Moment
}

const wireSize = 64

func (w *wire) ID() string        { return "secret" }
func (w *wire) Transport() string { return "websocket" }

func (w *wire) Send(p *hub.Packet) error {
	if bytes.HasPrefix(p.Text(), []byte("40")) {
		// As if the goroutine had lost its processor here: much can happen around this packet.
		time.Sleep(w.client.hesitation)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reason != "" {
		return hub.ErrDisconnected
	}
	now := w.client.w.book.Now()
	if !w.farewell.IsZero() && now.At.After(w.farewell) {
		w.client.w.violate("%s was sent %q after DISCONNECT", w.client, p.Text())
	}
	if bytes.HasPrefix(p.Text(), []byte("41")) {
		w.farewell = now.At
		w.client.rec.Leave("*", now)
	}
	select {
	case w.queue <- sent{p, crc32.ChecksumIEEE(p.Frames()), now}:
		return nil
	default:
	}
	w.breakLocked(hub.ReasonServerClose)
	return hub.ErrSlowConsumer
}

func (w *wire) Close(reason hub.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closeLocked(reason)
}

func (w *wire) closeLocked(reason hub.Reason) {
	if w.reason != "" {
		return
	}
	w.reason = reason
	w.client.rec.Leave("*", w.client.w.book.Now())
	close(w.closed)
}

// breakOff loses the connection and everything that is queued.
func (w *wire) breakOff(reason hub.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breakLocked(reason)
}

func (w *wire) breakLocked(reason hub.Reason) {
	w.broken = true
	if w.head != (ledger.Moment{}) {
		w.client.rec.Leave("*", w.head)
	}
	w.closeLocked(reason)
}

func (w *wire) isBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken
}

func (w *wire) closedFor() hub.Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason
}

// packet is what a client understands of a packet, by a parser that has nothing in common with the
// hub's.
type packet struct {
	kind      byte // Socket.IO's digit
	namespace string
	id        string // digits, "" if there is none
	data      []byte // JSON
	binary    [][]byte
}

func parse(s sent) (packet, error) {
	p := s.p
	if crc32.ChecksumIEEE(p.Frames()) != s.sum {
		return packet{}, fmt.Errorf("a packet was changed after it was sent: %q", p.Frames())
	}
	var k packet
	frames := p.Frames()
	var payloads [][]byte
	for len(frames) > 0 {
		if len(frames) < 2 || frames[0] != 0x81 && frames[0] != 0x82 || frames[0] == 0x81 && len(payloads) > 0 {
			return k, fmt.Errorf("not a frame: %q", frames)
		}
		n, head := int(frames[1]), 2
		switch n {
		case 126:
			n, head = int(binary.BigEndian.Uint16(frames[2:])), 4
		case 127:
			n, head = int(binary.BigEndian.Uint64(frames[2:])), 10
		}
		if head+n > len(frames) {
			return k, fmt.Errorf("frame is longer than the packet: %q", frames)
		}
		payloads = append(payloads, frames[head:head+n])
		frames = frames[head+n:]
	}
	if len(payloads) == 0 || !bytes.Equal(payloads[0], p.Text()) {
		return k, fmt.Errorf("frames and text differ: %q and %q", payloads, p.Text())
	}
	k.binary = payloads[1:]
	for i, b := range k.binary {
		if p.Attachments() != len(k.binary) || !bytes.Equal(p.Attachment(i), b) {
			return k, fmt.Errorf("frames and attachments differ: %q", p.Frames())
		}
	}
	text := p.Text()
	if len(text) < 2 || text[0] != '4' {
		return k, fmt.Errorf("not a message: %q", text)
	}
	k.kind, text = text[1], text[2:]
	if k.kind == '5' || k.kind == '6' {
		count, rest, _ := bytes.Cut(text, []byte("-"))
		if n, err := strconv.Atoi(string(count)); err != nil || n != len(k.binary) {
			return k, fmt.Errorf("%d attachments are not %q", len(k.binary), count)
		}
		text = rest
	} else if len(k.binary) > 0 {
		return k, fmt.Errorf("attachments of %q", p.Text())
	}
	k.namespace = "/"
	if len(text) > 0 && text[0] == '/' {
		name, rest, ok := bytes.Cut(text, []byte(","))
		if !ok {
			name, rest = text, nil
		}
		k.namespace, text = string(name), rest
	}
	end := 0
	for end < len(text) && '0' <= text[end] && text[end] <= '9' {
		end++
	}
	k.id, k.data = string(text[:end]), text[end:]
	if len(k.data) > 0 && !json.Valid(k.data) {
		return k, fmt.Errorf("not JSON: %q", p.Text())
	}
	return k, nil
}

// read takes packets from the queue until the connection has ended, and then tells the hub.
func (w *wire) read() {
	c := w.client
	for {
		select {
		case s := <-w.queue:
			w.take(s)
			continue
		case <-w.closed:
		}
		for len(w.queue) > 0 && !w.isBroken() {
			w.take(<-w.queue)
		}
		break
	}
	c.hc.Closed(w.closedFor())
	c.ended()
}

func (w *wire) take(s sent) {
	c := w.client
	w.mu.Lock()
	w.head = s.at
	w.mu.Unlock()
	if d := c.latency(); d > 0 {
		pause(d, w.closed)
	}
	if w.isBroken() {
		return
	}
	k, err := parse(s)
	if err != nil {
		c.w.violate("%s: %v", c, err)
	} else {
		c.took(k)
	}
	w.mu.Lock()
	if len(w.queue) == 0 {
		w.head = ledger.Moment{}
	}
	w.mu.Unlock()
}

// pause waits for d, or until stop is closed.
func pause(d time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
}
