// Package otlp sends the spans of a server to an OpenTelemetry collector, over HTTP. The variables OTEL_ of the environment
// have their usual meaning: headers, compression, certificates, the sampler and the resource are set there.
package otlp

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"tether/tracing"
)

// Options of Traces.
type Options struct {
	Endpoint string // URL; "": what the environment says
	Every    int    // one in so many requests begins a trace; 0: none
	Node     string // name of this node; "": that of the host
	Logger   *slog.Logger
}

// Traces are the spans of a server. A nil pointer makes none.
type Traces struct {
	every    atomic.Uint64
	requests atomic.Uint64
	provider *sdk.TracerProvider
	tracer   *tracing.Tracer
	spans    trace.Tracer
}

// New connects to nobody: a collector may be away when a server starts.
func New(ctx context.Context, o Options) (*Traces, error) {
	var options []otlptracehttp.Option
	if o.Endpoint != "" {
		options = append(options, otlptracehttp.WithEndpointURL(strings.TrimSuffix(o.Endpoint, "/")))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, err
	}
	about := []attribute.KeyValue{attribute.String("service.name", "tether")}
	if o.Node != "" {
		about = append(about, attribute.String("service.instance.id", o.Node))
	}
	r, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(about...), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Logger.Warn("spans were not sent", "error", err) }))
	t := &Traces{provider: sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(r))}
	t.SetEvery(o.Every)
	t.spans = t.provider.Tracer("tether")
	t.tracer, err = tracing.New(tracing.Options{Provider: t.provider})
	return t, err
}

// Tracer is for the hub.
func (t *Traces) Tracer() *tracing.Tracer { return t.tracer }

// SetEvery changes how many requests begin a trace.
func (t *Traces) SetEvery(n int) {
	if t != nil {
		t.every.Store(uint64(n))
	}
}

// Close sends what is left, until ctx is done.
func (t *Traces) Close(ctx context.Context) {
	if t == nil {
		return
	}
	t.tracer.Close()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}

// begins reports whether a request begins a trace.
func (t *Traces) begins() bool {
	every := t.every.Load()
	return every != 0 && t.requests.Add(1)%every == 0
}

// Request begins the span of a request that is in a sampled trace, or begins one. End is told how it has ended; statusOf is the
// status of an answer with an error.
func (t *Traces) Request(ctx context.Context, r *http.Request) (traced context.Context, end func(err error, statusOf func(error) int)) {
	none := func(error, func(error) int) {}
	if t == nil {
		return ctx, none
	}
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	if !trace.SpanContextFromContext(ctx).IsSampled() && !t.begins() {
		return ctx, none
	}
	_, route, _ := strings.Cut(r.Pattern, " ")
	ctx, span := t.spans.Start(ctx, r.Pattern, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("http.route", route)))
	return ctx, func(err error, statusOf func(error) int) {
		status := http.StatusOK
		if err != nil {
			status = statusOf(err)
		}
		span.SetAttributes(attribute.Int("http.response.status_code", status))
		if status >= 500 {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}
