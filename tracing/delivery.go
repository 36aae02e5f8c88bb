package tracing

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"tether/engine"
)

// delivery is the span of an event on one node: from its arrival until every client has it, or does not get it. It
// is an [engine.Watcher].
type delivery struct {
	tracer *Tracer
	span   trace.Span

	mu      sync.Mutex
	timer   *time.Timer         // guarded by mu; ends the span
	routed  bool                // guarded by mu
	sockets int                 // guarded by mu
	last    time.Time           // guarded by mu; when something was told last
	told    [outcomes]int       // guarded by mu
	first   [outcomes]time.Time // guarded by mu
}

const outcomes = int(engine.Lost) + 1

// Routed implements [engine.Watcher].
func (d *delivery) Routed(sockets int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.routed, d.sockets = true, sockets
	d.settleLocked()
}

// Became implements [engine.Watcher].
func (d *delivery) Became(_ engine.Conn, o engine.Outcome) {
	if int(o) >= outcomes {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.told[o]++; d.told[o] == 1 {
		d.first[o] = time.Now()
	}
	d.settleLocked()
}

// settleLocked has the span ended once nothing more is to come: by the timer, as a connection is locked here, and
// the end of a span may take long.
func (d *delivery) settleLocked() {
	d.last = time.Now()
	written, dropped := d.countLocked()
	if d.timer != nil && d.routed && written+dropped >= d.sockets {
		d.timer.Reset(0)
	}
}

func (d *delivery) countLocked() (written, dropped int) {
	for o := range engine.Outcome(outcomes) {
		if o.Dropped() {
			dropped += d.told[o]
		}
	}
	return d.told[engine.Written], dropped
}

// end ends the span, once.
func (d *delivery) end() {
	t := d.tracer
	t.mu.Lock()
	_, open := t.open[d]
	delete(t.open, d)
	closed := t.closed
	t.mu.Unlock()
	d.mu.Lock()
	if d.timer == nil || !open && !closed {
		d.mu.Unlock()
		return
	}
	d.timer.Stop()
	d.timer = nil
	written, dropped := d.countLocked()
	sockets, told, first, last := d.sockets, d.told, d.first, d.last
	d.mu.Unlock() // connections that are locked wait for it, and what follows is the application's exporter
	if last.IsZero() {
		last = time.Now()
	}
	d.span.SetAttributes(
		attribute.Int("tether.sockets", sockets),
		attribute.Int("tether.written", written),
		attribute.Int("tether.queued", told[engine.Queued]),
		attribute.Int("tether.acknowledged", told[engine.Acknowledged]),
		attribute.Int("tether.dropped", dropped),
	)
	for o := range engine.Outcome(outcomes) {
		if o.Dropped() && told[o] > 0 {
			d.span.AddEvent("dropped", trace.WithTimestamp(first[o]),
				trace.WithAttributes(attribute.String("tether.why", o.String()), attribute.Int("tether.clients", told[o])))
		}
	}
	d.span.End(trace.WithTimestamp(last))
}
