package sim

import (
	"context"
	"encoding/json"
	"errors"
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

// publisher is somebody who emits.
type publisher struct {
	name    string
	node    *node // nil: a worker without a hub
	emitter *hub.Emitter
	stop    context.CancelFunc // of a worker
}

// publisherOf is the next one to emit: a worker, or a node that lives.
func (w *world) publisherOf() *publisher {
	if live := w.live(); len(live) > 0 && w.chance(2) {
		n := pick(w, live)
		return &publisher{name: n.name, node: n, emitter: n.hub.Emitter()}
	}
	return pick(w, w.workers)
}

// token returns the token of a stream, so that its messages are published one after the other.
func (w *world) token(stream string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.streams[stream]
	if t == nil {
		t = make(chan struct{}, 1)
		w.streams[stream] = t
	}
	return t
}

// emit emits n events to one room, or to the union of several, one after the other.
func (w *world) emit(p *publisher, namespace string, to, except []string, n int, binary bool) {
	calm := !w.disturbed
	w.jobs.Go(func() {
		full := func(list []string) (names []string, out []hub.Target) {
			for _, r := range list {
				names = append(names, namespace+","+r)
				out = append(out, target(r))
			}
			return names, out
		}
		names, targets := full(to)
		excepted, exceptions := full(except)
		e := p.emitter.In(namespace)
		if len(exceptions) > 0 {
			e = e.Except(exceptions...)
		}
		token := w.token(p.name + names[0])
		for range n {
			token <- struct{}{}
			w.emitOne(e, p, names, excepted, targets, binary, calm)
			<-token
		}
	})
}

func (w *world) emitOne(e *hub.Emitter, p *publisher, names, excepted []string, to []hub.Target, binary, calm bool) {
	m := w.book.Send(p.name, names, excepted)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	args := []any{m.Mark}
	if binary {
		args = append(args, attachment(m.Mark))
	}
	began := time.Now()
	var receipt hub.Receipt
	var err error
	if len(to) == 1 {
		receipt, err = e.Emit(ctx, to[0], "n", args...)
	} else {
		receipt, err = e.EmitUnion(ctx, to, "n", args...)
	}
	w.book.Sent(m, receipt, err)
	if took := time.Since(began); took > simbroker.PublishFails+100*time.Millisecond {
		w.violate("%v took %v", m, took)
	}
	if err == nil {
		return
	}
	if !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, broker.ErrClosed) {
		w.violate("%v: %v", m, err)
	}
	if calm && !w.wasDisturbed() && (p.node == nil || !p.node.ending()) {
		w.violate("%v failed although nothing was wrong: %v", m, err)
	}
}
