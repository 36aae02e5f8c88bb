package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"tether/broker"
	"tether/broker/drivers"
	"tether/broker/memory"
	"tether/broker/seal"
	"tether/engine"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/client"
	"tether/internal/deptest"
	"tether/internal/long"
	"tether/tracing"
	"tether/transport"
)

func TestWhatItDependsOn(t *testing.T) {
	deptest.Forbid(t, "tether/tracing", map[string]string{
		"tether/transport":                   "the hub tells it all",
		"tether/broker/redis":                "the program chooses the driver",
		"tether/broker/nats":                 "the program chooses the driver",
		"go.opentelemetry.io/otel/sdk":       "the program chooses the SDK",
		"go.opentelemetry.io/otel/sdk/trace": "the program chooses the SDK",
		"go.opentelemetry.io/otel/exporters": "the program chooses the exporter",
		"google.golang.org/grpc":             "nothing here speaks gRPC",
	})
	for _, core := range []string{"tether/hub", "tether/transport", "tether/engine", "tether/cluster", "tether/event", "tether/broker/redis", "tether/broker/nats"} {
		deptest.Forbid(t, core, map[string]string{"go.opentelemetry.io/otel/trace": "the core knows no tracing library"})
	}
}

var patience = long.Limit(10 * time.Second)

// recording is a provider that keeps the spans that have ended.
func recording(t testing.TB) (*sdk.TracerProvider, *tracetest.SpanRecorder) {
	spans := tracetest.NewSpanRecorder()
	p := sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))
	t.Cleanup(func() { p.Shutdown(context.Background()) })
	return p, spans
}

// node is a node that is traced.
type node struct {
	hub    *hub.Hub
	url    string
	tracer *tracing.Tracer
}

func start(t testing.TB, b broker.Broker, o tracing.Options) *node {
	t.Helper()
	tracer, err := tracing.New(o)
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	h, err := hub.New(b, hub.Options{
		DrainWindow: -1, Tracers: []hub.Tracer{tracer}, Greeting: hub.Greeting{Off: true},
		OnStart: func(context.Context, *hub.Hub) error { close(up); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "42") })
	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(sockets)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }() // waited for below
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, sockets.Close()); err != nil {
			t.Error(err)
		}
		web.Close()
		tracer.Close()
	})
	<-up
	return &node{h, web.URL, tracer}
}

func (n *node) dial(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{URL: n.url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// await waits for n spans with a name.
func await(t testing.TB, spans *tracetest.SpanRecorder, name string, n int) []sdk.ReadOnlySpan {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		var found []sdk.ReadOnlySpan
		for _, s := range spans.Ended() {
			if s.Name() == name {
				found = append(found, s)
			}
		}
		if len(found) == n {
			return found
		}
		if time.Since(began) > patience {
			t.Fatalf("%d spans are called %q, want %d", len(found), name, n)
		}
	}
}

func attributes(s sdk.ReadOnlySpan) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes() {
		all[string(a.Key)] = a.Value.String()
	}
	return all
}

func wantAttributes(t *testing.T, s sdk.ReadOnlySpan, want map[string]string) {
	t.Helper()
	got := attributes(s)
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %s is %q, want %q", s.Name(), key, got[key], value)
		}
	}
}

// TestOneTraceLeadsFromAnHTTPHandlerToEachSocket through both brokers, with a traceparent that came over HTTP.
func TestOneTraceLeadsFromAnHTTPHandlerToEachSocket(t *testing.T) {
	for name, server := range map[string]*backend.Server{"Redis": backend.Redis(t), "NATS": backend.NATS(t)} {
		t.Run(name, func(t *testing.T) {
			provider, spans := recording(t)
			open := func() broker.Broker {
				b, err := long.Again(broker.ErrUnavailable, func() (broker.Broker, error) { return drivers.Mux().Open(t.Context(), server.URL) })
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { b.Close() })
				return b
			}
			a, b := start(t, open(), tracing.Options{Provider: provider}), start(t, open(), tracing.Options{Provider: provider})
			phone, laptop := a.dial(t), b.dial(t)
			tracer := provider.Tracer("the application")
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, span := tracer.Start(propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header)), "POST /orders")
				defer span.End()
				if receipt, err := a.hub.Emitter().Emit(ctx, hub.User("42"), "/users/ping"); err != nil || receipt.Nodes == 0 {
					t.Error(receipt, err)
				}
			}))
			defer service.Close()
			r, _ := http.NewRequestWithContext(t.Context(), "POST", service.URL, nil)
			const caller = "4bf92f3577b34da6a3ce929d0e0e4736"
			r.Header.Set("traceparent", "00-"+caller+"-00f067aa0ba902b7-01")
			r.Header.Set("tracestate", "vendor=opaque")
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			for _, c := range []*client.Client{phone, laptop} {
				if _, err := c.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
			}

			request := await(t, spans, "POST /orders", 1)[0]
			emit := await(t, spans, "emit /users/ping", 1)[0]
			if emit.Parent().SpanID() != request.SpanContext().SpanID() || emit.SpanKind() != trace.SpanKindProducer {
				t.Errorf("the emit is no PRODUCER below the request: %v", emit.SpanKind())
			}
			wantAttributes(t, emit, map[string]string{
				"messaging.system": "tether", "messaging.operation.name": "emit", "messaging.operation.type": "send",
				"messaging.destination.name": "/users/ping",
			})
			for _, d := range await(t, spans, "deliver /users/ping", 2) {
				if d.SpanContext().TraceID().String() != caller || d.Parent().SpanID() != emit.SpanContext().SpanID() || d.SpanKind() != trace.SpanKindConsumer {
					t.Errorf("a delivery is no CONSUMER in the trace of the caller")
				}
				if links := d.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != emit.SpanContext().SpanID() {
					t.Errorf("a delivery has the links %v, want one to the emit", links)
				}
				if got := d.SpanContext().TraceState().String(); got != "vendor=opaque" {
					t.Errorf("the tracestate is %q", got)
				}
				wantAttributes(t, d, map[string]string{"tether.sockets": "1", "tether.written": "1", "tether.dropped": "0"})
			}
		})
	}
}

func TestAnEventOfAClientLeadsToItsHandlerAndFurther(t *testing.T) {
	provider, spans := recording(t)
	n := start(t, memory.NewBus().Broker(), tracing.Options{Provider: provider, Every: 2, Template: func(string) string { return "/orders/{id}" }})
	fails := errors.New("what a client has sent")
	n.hub.Of("/").On("/orders/7", func(ctx context.Context, s *hub.Socket, _ *hub.Message) error {
		if _, err := n.hub.Emitter().Emit(ctx, hub.User("42"), "/orders/7/done"); err != nil {
			t.Error(err)
		}
		return fails
	})
	n.hub.Of("/").OnAny(func(context.Context, *hub.Socket, *hub.Message) error { return nil })
	c := n.dial(t)
	for _, name := range []string{"a name of the client's", "/orders/7", "/orders/7", "/orders/7", "/orders/7"} {
		if err := c.Emit(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	process := await(t, spans, "process /orders/{id}", 2)
	for _, p := range process {
		wantAttributes(t, p, map[string]string{
			"messaging.destination.name": "/orders/7", "messaging.destination.template": "/orders/{id}",
			"messaging.operation.type": "process", "error.type": "*errors.errorString",
		})
		if p.Status().Description != "" || slices.ContainsFunc(p.Attributes(), func(a attribute.KeyValue) bool { return a.Value.String() == fails.Error() }) {
			t.Error("the text of an error is in the span")
		}
	}
	emits := await(t, spans, "emit /orders/{id}", 2)
	await(t, spans, "deliver /orders/{id}", 2)
	if emits[0].Parent().SpanID() != process[0].SpanContext().SpanID() {
		t.Error("what the handler emits is not below the event")
	}
}

// TestASampledEmitIsInTheHeadersOfNATS, where other programs read it; not if messages are sealed. What is not sampled
// has no headers.
func TestASampledEmitIsInTheHeadersOfNATS(t *testing.T) {
	server := backend.NATS(t)
	state, err := trace.ParseTraceState("vendor=opaque")
	if err != nil {
		t.Fatal(err)
	}
	caller := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}
	stateful := caller
	stateful.TraceState = state
	key := seal.GenerateKey()
	for name, row := range map[string]struct {
		caller trace.SpanContextConfig
		key    seal.Keys
		want   bool
	}{
		"sampled":           {caller, seal.Keys{}, true},
		"with a tracestate": {stateful, seal.Keys{}, true},
		"with a key":        {stateful, seal.Keys{Current: key}, true},
		"sealed":            {stateful, seal.Keys{Current: key, Seal: true}, false},
		"not sampled":       {trace.SpanContextConfig{TraceID: caller.TraceID, SpanID: caller.SpanID, TraceState: state}, seal.Keys{}, false},
		"without a span":    {trace.SpanContextConfig{}, seal.Keys{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			provider, spans := recording(t)
			tracer, err := tracing.New(tracing.Options{Provider: provider})
			if err != nil {
				t.Fatal(err)
			}
			prefix := natsio.NewInbox()[len("_INBOX."):]
			heard := listen(t, server.URL, prefix)
			b, err := long.Again(broker.ErrUnavailable, func() (broker.Broker, error) {
				return drivers.Mux().Open(t.Context(), server.URL+"?prefix="+prefix)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			e := hub.NewEmitter(b, hub.EmitterOptions{Key: row.key, Tracers: []hub.Tracer{tracer}})
			ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(row.caller))
			m := emitUntilHeard(t, e, ctx, spans, heard)
			if !row.want {
				if m.Header != nil {
					t.Errorf("the message has the headers %v", m.Header)
				}
				return
			}
			emit := await(t, spans, "emit /users/ping", 1)[0].SpanContext()
			want := "00-" + emit.TraceID().String() + "-" + emit.SpanID().String() + "-01"
			if emit.TraceID() != caller.TraceID || m.Header.Get("traceparent") != want || m.Header.Get("tracestate") != row.caller.TraceState.String() {
				t.Errorf("the message has the headers %v, want the traceparent %s", m.Header, want)
			}
		})
	}
}

// listen has a stranger hear what is published below prefix.
func listen(t *testing.T, url, prefix string) *natsio.Subscription {
	t.Helper()
	stranger, err := natsio.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stranger.Close)
	heard, err := stranger.SubscribeSync(prefix + ".s.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Flush(); err != nil {
		t.Fatal(err)
	}
	return heard
}

// emitUntilHeard emits, again if the server was too slow for the driver, and returns what a stranger hears of the last
// emit.
func emitUntilHeard(t *testing.T, e *hub.Emitter, ctx context.Context, spans *tracetest.SpanRecorder, heard *natsio.Subscription) *natsio.Msg {
	t.Helper()
	for began := time.Now(); ; {
		spans.Reset()
		user := natsio.NewInbox()[len("_INBOX."):]
		_, err := e.Emit(ctx, hub.User(user), "/users/ping")
		if errors.Is(err, broker.ErrUnavailable) && time.Since(began) < patience {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for {
			m, err := heard.NextMsg(patience)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(m.Subject, user) {
				return m
			}
		}
	}
}

// TestADeliveryEndsWithTheLastOfItsClients, or when it has waited for long enough.
func TestADeliveryEndsWithTheLastOfItsClients(t *testing.T) {
	provider, spans := recording(t)
	tracer, err := tracing.New(tracing.Options{Provider: provider, Patience: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := provider.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	mark, done := tracer.Emit(ctx, "/", []hub.Target{hub.User("1"), hub.User("2")}, "many")
	done(nil, fmt.Errorf("wrapped: %w", broker.ErrUnavailable))
	wantAttributes(t, await(t, spans, "emit many", 1)[0], map[string]string{"messaging.batch.message_count": "2", "error.type": "*fmt.wrapError"})

	patient, err := tracing.New(tracing.Options{Provider: provider, Patience: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d := patient.Arrived(mark, "/", "dropped")
	d.Became(nil, engine.Queued)
	d.Became(nil, engine.DroppedOldest)
	d.Became(nil, engine.Written)
	d.Routed(2)
	got := await(t, spans, "deliver dropped", 1)[0]
	wantAttributes(t, got, map[string]string{"tether.sockets": "2", "tether.queued": "1", "tether.written": "1", "tether.dropped": "1"})
	if e := got.Events(); len(e) != 1 || e[0].Name != "dropped" {
		t.Errorf("what was dropped is told by %v", e)
	}
	d.Became(nil, engine.Acknowledged) // too late, and harmless

	tracer.Arrived(mark, "/", "waits") // and nobody gets it
	wantAttributes(t, await(t, spans, "deliver waits", 1)[0], map[string]string{"tether.written": "0"})

	for i := range 1025 {
		if d := patient.Arrived(mark, "/", "open"); (d == nil) != (i == 1024) {
			t.Fatalf("delivery %d beside others that are open: %v", i, d)
		}
	}
	patient.Close()
	await(t, spans, "deliver open", 1024)
	tracer.Close()
	if tracer.Arrived(mark, "/", "late") != nil {
		t.Error("there is a delivery after Close")
	}
	for _, broken := range [][]byte{nil, mark[:24], make([]byte, 25), append(slices.Clone(mark), make([]byte, 201)...)} {
		if tracer.Arrived(broken, "/", "x") != nil || tracer.Trace(broken) != nil {
			t.Errorf("a mark of %d bytes is one", len(broken))
		}
	}
	if _, err := tracing.New(tracing.Options{Every: -1}); err == nil {
		t.Error("one in -1 events begins a trace")
	}
}

// spy is a broker that keeps the last message that was published.
type spy struct {
	broker.Broker
	size int
}

func (s *spy) Publish(ctx context.Context, m ...broker.Message) ([]broker.Receipt, error) {
	s.size = len(m[len(m)-1].Data)
	return s.Broker.Publish(ctx, m...)
}

// TestWhatIsNotSampledPaysNothing: not an allocation, not a byte between the nodes.
func TestWhatIsNotSampledPaysNothing(t *testing.T) {
	if raceDetector {
		t.Skip("with the race detector pools lose what they have, at random")
	}
	provider := sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample()))
	tracer, err := tracing.New(tracing.Options{Provider: provider})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := provider.Tracer("test").Start(t.Context(), "not sampled")
	defer span.End()
	cost := func(tracers ...hub.Tracer) (allocations float64, size int) {
		b := &spy{Broker: memory.NewBus().Broker()}
		e := hub.NewEmitter(b, hub.EmitterOptions{Tracers: tracers})
		emit := func() {
			if _, err := e.Emit(ctx, hub.User("42"), "/users/ping", "payload"); err != nil {
				t.Fatal(err)
			}
		}
		emit()
		size = b.size
		return testing.AllocsPerRun(1000, emit), size
	}
	without, bytes := cost()
	with, same := cost(tracer)
	for range 2 { // the collector may have emptied a pool meanwhile
		again, _ := cost()
		without = max(without, again)
		again, _ = cost(tracer)
		with = min(with, again)
	}
	if with > without || same != bytes {
		t.Errorf("with a tracer %v allocations and %d bytes, without %v and %d", with, same, without, bytes)
	}
}

// BenchmarkEmit is an emit that nobody takes: without a tracer, and with one and a span that is not sampled.
func BenchmarkEmit(b *testing.B) {
	tracer, err := tracing.New(tracing.Options{})
	if err != nil {
		b.Fatal(err)
	}
	not, span := sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample())).Tracer("test").Start(b.Context(), "not sampled")
	defer span.End()
	for _, c := range []struct {
		name    string
		ctx     context.Context
		tracers []hub.Tracer
	}{{"no tracer", not, nil}, {"not sampled", not, []hub.Tracer{tracer}}} {
		b.Run(c.name, func(b *testing.B) {
			e := hub.NewEmitter(memory.NewBus().Broker(), hub.EmitterOptions{Tracers: c.tracers})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Emit(c.ctx, hub.User("42"), "/users/ping", "payload"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
