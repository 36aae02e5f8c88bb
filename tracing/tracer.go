package tracing

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"tether/broker"
	"tether/engine"
	"tether/hub"
)

// Options of a Tracer. The zero value is ready to use.
type Options struct {
	// Provider makes the spans. Default: the global one of package otel, as it is when New is called.
	Provider trace.TracerProvider

	// Template names events in spans whose names hold something else, IDs say: "/orders/{id}". Names of spans are
	// to be few. Default: an event is called by its name.
	Template func(event string) string

	// Every has one in so many events of clients begin a trace, of those that a handler of On is for. Default 0:
	// none. The sampler of the provider decides, too.
	Every int

	// Patience is for how long the span of a delivery is open at most: until then, clients that are behind may get
	// the event. Default 10 s.
	Patience time.Duration
}

// maxOpen is how many deliveries may wait for clients at a time. Those beyond have no span.
const maxOpen = 1024

// Tracer makes spans of events. It is a [hub.Tracer].
type Tracer struct {
	o      Options
	tracer trace.Tracer
	heard  atomic.Uint64 // events of clients

	mu     sync.Mutex
	open   map[*delivery]struct{} // guarded by mu
	closed bool                   // guarded by mu
}

// New returns a Tracer. The caller closes it when the hub's Run has returned, and shuts the provider down after that.
func New(o Options) (*Tracer, error) {
	if o.Every < 0 || o.Patience < 0 {
		return nil, fmt.Errorf("tracing: options: Every is %d and Patience %v: they cannot be negative, 0 is the default", o.Every, o.Patience)
	}
	if o.Provider == nil {
		o.Provider = otel.GetTracerProvider()
	}
	if o.Template == nil {
		o.Template = func(event string) string { return event }
	}
	o.Patience = cmp.Or(o.Patience, 10*time.Second)
	return &Tracer{o: o, tracer: o.Provider.Tracer("tether/tracing"), open: make(map[*delivery]struct{})}, nil
}

// Close ends the spans of deliveries that wait for clients. There are none from then on.
func (t *Tracer) Close() {
	t.mu.Lock()
	open := t.open
	t.open, t.closed = nil, true
	t.mu.Unlock()
	for d := range open {
		d.end()
	}
}

// Name implements [hub.Tracer].
func (t *Tracer) Name() string { return "otel" }

// Sampled implements [hub.Tracer].
func (t *Tracer) Sampled(ctx context.Context, _ string, _ hub.Target, _ string) bool {
	return trace.SpanContextFromContext(ctx).IsSampled()
}

// about are the attributes of all spans.
func (t *Tracer) about(namespace, event, operation, kind string) (name string, attributes []attribute.KeyValue) {
	template := t.o.Template(event)
	attributes = []attribute.KeyValue{
		attribute.String("messaging.system", "tether"),
		attribute.String("messaging.operation.name", operation),
		attribute.String("messaging.operation.type", kind),
		attribute.String("messaging.destination.name", event),
		attribute.String("tether.namespace", namespace),
	}
	if template != event {
		attributes = append(attributes, attribute.String("messaging.destination.template", template))
	}
	return operation + " " + template, attributes
}

// Emit implements [hub.Tracer].
func (t *Tracer) Emit(ctx context.Context, namespace string, to []hub.Target, event string) ([]byte, func([]hub.Receipt, error)) {
	name, attributes := t.about(namespace, event, "emit", "send")
	if len(to) > 1 {
		attributes = append(attributes, attribute.Int("messaging.batch.message_count", len(to)))
	}
	_, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...))
	var mark []byte
	if c := span.SpanContext(); c.IsSampled() {
		mark = appendMark(c)
	}
	return mark, func(receipts []hub.Receipt, err error) {
		nodes, unknown := 0, false
		for _, r := range receipts {
			nodes += r.Nodes
			unknown = unknown || r.Bound == broker.Unknown
		}
		span.SetAttributes(attribute.Int("tether.nodes", nodes), attribute.Bool("tether.receipt.unknown", unknown))
		end(span, err)
	}
}

// Arrived implements [hub.Tracer].
func (t *Tracer) Arrived(mark []byte, namespace, event string) engine.Watcher {
	creation, ok := parseMark(mark)
	if !ok {
		return nil
	}
	d := &delivery{tracer: t}
	t.mu.Lock()
	full := t.closed || len(t.open) >= maxOpen
	if !full {
		t.open[d] = struct{}{}
	}
	t.mu.Unlock()
	if full {
		return nil
	}
	name, attributes := t.about(namespace, event, "deliver", "process")
	_, d.span = t.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), creation), name,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(trace.Link{SpanContext: creation}), trace.WithAttributes(attributes...))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = time.AfterFunc(t.o.Patience, d.end)
	return d
}

// Handle implements [hub.Tracer].
func (t *Tracer) Handle(ctx context.Context, s *hub.Socket, m *hub.Message, declared bool) (context.Context, func(error)) {
	if n := t.o.Every; n == 0 || !declared || t.heard.Add(1)%uint64(n) != 0 {
		return ctx, nil
	}
	name, attributes := t.about(s.Namespace().Name(), m.Event(), "process", "process")
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...))
	return ctx, func(err error) { end(span, err) }
}

// end ends a span that may have failed. The text of the error is the application's, and not in it: it may quote what
// a client has sent.
func end(span trace.Span, err error) {
	if err != nil {
		span.SetAttributes(attribute.String("error.type", fmt.Sprintf("%T", err)))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}
