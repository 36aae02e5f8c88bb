package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"tether/hub"
)

// reply answers a question of the hub's: at once, later, twice, or never.
func (c *client) reply(k packet, args []json.RawMessage) {
	number := -1
	if len(args) > 1 {
		number, _ = strconv.Atoi(string(args[1]))
	}
	if k.id == "" || number < 0 {
		c.w.violate("%s got a question that is none: %s", c, k.data)
		return
	}
	c.mu.Lock()
	how, d := c.rng.IntN(8), time.Duration(c.rng.Int64N(int64(300*time.Millisecond)))
	c.mu.Unlock()
	answer := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.kicked || !c.left.IsZero() {
			return
		}
		data := "[" + strconv.Itoa(number) + "]"
		c.wire.sayThen(c.text("3", k.id, data), func() { // the hub has it
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.replies[number].IsZero() {
				c.replies[number] = time.Now()
			}
		})
		if how == 1 {
			c.say("3", k.id, data)
		}
	}
	switch {
	case how == 0:
	case how < 5:
		answer()
	default:
		c.w.jobs.Go(func() { pause(d, c.wire.closed); answer() })
	}
}

// replied is when the hub was told the answer to a question; zero: never.
func (c *client) replied(number int) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replies[number]
}

// overSince is when the hub was told that the connection has ended; zero: it was not.
func (c *client) overSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.overAt
}

// doQuestion has the hub ask a client something, with or without patience.
func (w *world) doQuestion() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	s := c.node.guests.socket(c.n)
	batch := 1 + w.rng.IntN(6)
	awaited := c.node.guests.count(c.n, batch)
	for range batch {
		number, patience := w.questions, 50*time.Millisecond+w.upTo(2*time.Second)
		w.questions++
		w.jobs.Go(func() { w.question(c, s, number, awaited, patience) })
	}
	return true
}

func (w *world) question(c *client, s *hub.Socket, number, awaited int, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	m, err := s.EmitAck(ctx, "ask", number)
	awaited = max(awaited, 1+c.node.guests.count(c.n, -1)) // at the end others may have come
	took := time.Since(began)
	switch {
	case err == nil:
		var got int
		if decoded := m.Decode(0, &got); decoded != nil || got != number || m.Len() != 1 {
			w.violate("%s: question %d was answered with %d (%v)", c, number, got, decoded)
		}
		if c.replied(number).IsZero() && c.overSince().IsZero() && time.Since(began) < patience {
			// The callback that notes it down runs after the answer has been passed on.
			time.Sleep(time.Millisecond)
			if c.replied(number).IsZero() && c.overSince().IsZero() {
				w.violate("%s: question %d was answered, and nobody has answered it", c, number)
			}
		}
	case errors.Is(err, context.DeadlineExceeded):
		if took != patience {
			w.violate("%s: question %d was given up after %v, not %v", c, number, took, patience)
		}
		deadline := began.Add(patience)
		if at := c.replied(number); !at.IsZero() && at.Before(deadline) {
			w.violate("%s: question %d was answered %v before it was given up", c, number, deadline.Sub(at))
		}
		if at := c.overSince(); !at.IsZero() && at.Before(deadline) {
			w.violate("%s: question %d was given up %v after the connection had ended", c, number, deadline.Sub(at))
		}
	case errors.Is(err, hub.ErrDisconnected), errors.Is(err, hub.ErrSlowConsumer):
		time.Sleep(10 * maxHesitation) // DISCONNECT may wait for the answer to CONNECT, and what was held
		if c.alive() && !c.dismissed() {
			w.violate("%s: question %d: %v", c, number, err)
		}
	case errors.Is(err, hub.ErrTooMany):
		if awaited <= maxAcks {
			w.violate("%s: question %d is one too many, and %d were asked", c, number, awaited)
		}
	default:
		w.violate("%s: question %d: %v", c, number, err)
	}
}

// dismissed reports whether DISCONNECT has been sent to the client.
func (c *client) dismissed() bool {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return !c.wire.farewell[c.namespace].IsZero()
}

// dismissing reports whether DISCONNECT has been sent to somebody within the last second, because of an
// expiry: the rooms that the client was in may not have been unsubscribed yet.
func (w *world) dismissing() bool {
	return slices.ContainsFunc(w.clients, func(c *client) bool {
		c.wire.mu.Lock()
		defer c.wire.mu.Unlock()
		return time.Since(c.wire.farewell[c.namespace]) < time.Second
	})
}

// doBlob sends binary and wants it back.
func (w *world) doBlob() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	blob := make([]byte, w.rng.IntN(300))
	for i := range blob {
		blob[i] = byte(w.rng.IntN(256))
	}
	c.ask("blob", `{"_placeholder":true,"num":0}`, func(k packet) {
		if len(k.binary) != 1 || !bytes.Equal(k.binary[0], blob) {
			w.violate("%s got other bytes back: %q, %q", c, k.binary, blob)
		}
	}, bytes.Clone(blob))
	return true
}

// doBroadcast has a socket emit to everybody but itself.
func (w *world) doBroadcast() bool {
	c := w.client()
	if c == nil || !c.alive() || c.node.ending() {
		return false
	}
	s, sid := c.node.guests.socket(c.n), c.id()
	p := &publisher{name: c.node.name, node: c.node, emitter: s.Broadcast()}
	calm, to := !w.disturbed, w.target()
	w.jobs.Go(func() {
		name := c.room(to)
		token := w.token(p.name + name)
		token <- struct{}{}
		w.emitOne(p.emitter, p, []string{name}, []string{c.room(sid)}, []hub.Target{target(to)}, false, calm)
		<-token
	})
	return true
}

// doVolatile emits what may be dropped, and nothing worse.
func (w *world) doVolatile() bool {
	p, namespace, to := w.publisherOf(), pick(w, namespaces), w.target()
	w.jobs.Go(func() {
		token := w.token(p.name + namespace + "," + to)
		token <- struct{}{}
		defer func() { <-token }()
		m := w.book.Send(p.name, []string{namespace + "," + to}, nil)
		w.book.Waive(m)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		receipt, err := p.emitter.In(namespace).Volatile().Emit(ctx, target(to), "n", m.Mark)
		w.book.Sent(m, receipt, err)
	})
	return true
}

// doProbe emits to several rooms in one call: each has a receipt of its own.
func (w *world) doProbe() bool {
	p, namespace := w.publisherOf(), pick(w, namespaces)
	to := []string{w.target(), pick(w, rooms), w.target()}
	if c := w.client(); c != nil && c.alive() && c.namespace == namespace {
		to = append(to, c.id(), pick(w, rooms))
	}
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		targets := make([]hub.Target, len(to))
		for i, r := range to {
			targets[i] = target(r)
		}
		var probes []func(hub.Receipt, error)
		for _, r := range to {
			m := w.book.Send(p.name+"'s probes", []string{namespace + "," + r}, nil)
			w.book.Waive(m)
			probes = append(probes, func(r hub.Receipt, err error) { w.book.Sent(m, r, err) })
		}
		receipts, err := p.emitter.In(namespace).EmitMany(ctx, targets, "probe")
		for i, f := range probes {
			f(receipts[i], err)
		}
	})
	return true
}
