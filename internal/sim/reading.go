package sim

import (
	"time"

	"tether/engine"
	"tether/internal/ledger"
)

// read takes packets from the queue until the connection has ended, and then tells the hub.
func (w *wire) read() {
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
	reason := w.closedFor()
	w.turn <- struct{}{}
	w.hc.Closed(reason)
	w.hc.Closed(engine.ReasonParseError) // only the first call counts
	for _, c := range w.all() {
		c.ended(reason)
	}
	close(w.done)
}

// latency is how long the client takes for the next packet.
func (w *wire) latency() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.rng.IntN(4) {
	case 0, 1:
		return 0
	case 2:
		return time.Duration(w.rng.Int64N(int64(time.Millisecond)))
	}
	if d := w.stall; d > 0 {
		w.stall = 0
		return d
	}
	return time.Duration(w.rng.Int64N(int64(4 * time.Millisecond)))
}

func (w *wire) take(s sent) {
	w.mu.Lock()
	w.head = s.at
	w.mu.Unlock()
	if d := w.latency(); d > 0 {
		pause(d, w.closed)
	}
	if w.isBroken() {
		return
	}
	k, err := parse(s)
	if err != nil {
		w.w.violate("%v: %v", w.all(), err)
	} else if c := w.whose(k); c != nil {
		c.took(k)
	}
	w.mu.Lock()
	if len(w.queue) == 0 && len(w.due) == 0 {
		w.head = ledger.Moment{}
	}
	w.mu.Unlock()
}

// whose is the client that a packet is for: an answer to CONNECT is for the next of its namespace.
func (w *wire) whose(k packet) *client {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.kind == '0' || k.kind == '4' {
		for _, c := range w.clients {
			if c.namespace == k.namespace && !c.seen {
				c.seen = true
				w.reading[k.namespace] = c
				break
			}
		}
	}
	c := w.reading[k.namespace]
	if c == nil {
		w.w.violate("%v got a packet of kind %c of %s", w.clients, k.kind, k.namespace)
	}
	return c
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
