package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"tether/internal/backend"
	"tether/internal/client"
)

// span is one that a collector has got.
type span struct {
	*trace.Span
	node string
}

func (s span) trace() string { return fmt.Sprintf("%x", s.TraceId) }

// spanCollector takes what is sent to it, as an OpenTelemetry collector does.
type spanCollector struct {
	*httptest.Server
	t *testing.T

	mu    sync.Mutex
	spans []span // guarded by mu
}

// newCollector has requests come with a header.
func newCollector(t *testing.T, header string) *spanCollector {
	c := &spanCollector{t: t}
	name, value, _ := strings.Cut(header, "=")
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in collector.ExportTraceServiceRequest
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = proto.Unmarshal(body, &in)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get(name) != value {
			t.Errorf("%s %s with %q: %v", r.Method, r.URL, r.Header.Get(name), err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, from := range in.ResourceSpans {
			if got := attribute(from.Resource.Attributes, "service.name"); got != "tether" {
				t.Errorf("the service is %q", got)
			}
			for _, scope := range from.ScopeSpans {
				for _, s := range scope.Spans {
					c.spans = append(c.spans, span{s, attribute(from.Resource.Attributes, "service.instance.id")})
				}
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func attribute(attributes []*common.KeyValue, key string) string {
	for _, a := range attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// named are the spans of a name.
func (c *spanCollector) named(name string) (found []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// TestTracesGoToACollector: a request with a traceparent is one trace, up to the client on another node.
func TestTracesGoToACollector(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "X-Tenant=shop")
	environ := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name(), "OTEL_EXPORTER_OTLP_HEADERS=X-Tenant=shop"}, enough...)
	a := start(t, environ, "--node=a", "--tracing.on", "--tracing.endpoint="+c.URL+"/").ready()
	b := start(t, append(environ, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL), "--node=b", "--tracing.on").ready()
	phone := dialUser(t, client.Options{URL: b.url()}, "42")
	emit := func(p *process, event, parent, key string) int {
		t.Helper()
		status, _, _ := adminDo(t, "POST", p.url()+"/emit", fmt.Sprintf(`{"user":"42","event":%q,"args":["secret"]}`, event),
			"Content-Type", "application/json", "Authorization", "Bearer "+key, "traceparent", parent)
		return status
	}
	const caller = "4bf92f3577b34da6a3ce929d0e0e4736"
	if status := emit(a, "/sampled", "00-"+caller+"-00f067aa0ba902b7-01", testEmitKey); status != 200 {
		t.Fatalf("got %d", status)
	}
	next(t, phone)
	emit(a, "/unsampled", "00-"+caller+"-00f067aa0ba902b7-00", testEmitKey)
	next(t, phone)
	emit(a, "/alone", "", testEmitKey)
	next(t, phone)
	emit(a, "/stranger", "00-"+caller+"-00f067aa0ba902b7-01", testEmitKey+"x")
	for _, p := range []*process{a, b} {
		p.signal(syscall.SIGTERM)
		if code := p.exit(); code != 0 {
			t.Errorf("it ended with %d", code)
		}
	}
	for _, want := range []struct {
		name, node string
		kind       trace.Span_SpanKind
	}{
		{"POST /emit", "a", trace.Span_SPAN_KIND_SERVER},
		{"emit /sampled", "a", trace.Span_SPAN_KIND_PRODUCER},
		{"deliver /sampled", "b", trace.Span_SPAN_KIND_CONSUMER},
	} {
		got := c.named(want.name)
		if len(got) != 1 || got[0].trace() != caller || got[0].node != want.node || got[0].Kind != want.kind {
			t.Errorf("%s: got %v", want.name, got)
		}
	}
	if n := len(c.spans); n != 3 {
		t.Errorf("%d spans were sent, want 3: %v", n, c.spans)
	}
	if all := fmt.Sprint(c.spans); strings.Contains(all, "secret") || strings.Contains(all, "42\"") {
		t.Errorf("an argument or a user is in a span: %s", all)
	}
}

// TestATraceBeginsAtOneInSoManyRequests.
func TestATraceBeginsAtOneInSoManyRequests(t *testing.T) {
	t.Parallel()
	c := newCollector(t, "X=")
	p := start(t, enough, "--tracing.on", "--tracing.endpoint="+c.URL+"/v1/traces", "--tracing.every=3").ready()
	for range 7 {
		p.post("/emit", testEmitKey, `{"user":"42","event":"/x"}`)
	}
	p.get("/stats")
	p.signal(syscall.SIGTERM)
	p.exit()
	requests, emits := c.named("POST /emit"), c.named("emit /x")
	if len(requests) != 2 || len(emits) != 2 || !slices.ContainsFunc(requests, func(r span) bool { return string(r.SpanId) == string(emits[0].ParentSpanId) }) {
		t.Errorf("got %v", c.spans)
	}
}

// TestAServerEndsWithoutItsCollector and says that spans are missing, whether the collector is away or does not answer.
func TestAServerEndsWithoutItsCollector(t *testing.T) {
	t.Parallel()
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(release) })
	for _, url := range []string{away.URL, silent.URL} {
		p := start(t, append([]string{"OTEL_EXPORTER_OTLP_TIMEOUT=3600000"}, enough...), "--tracing.on", "--tracing.endpoint="+url, "--tracing.every=1").ready()
		if got := p.post("/emit", testEmitKey, `{"user":"42","event":"/x"}`); got.status != 200 {
			t.Errorf("without a collector: %v", got)
		}
		p.signal(syscall.SIGTERM)
		if code := p.exit(); code != 0 {
			t.Errorf("it ended with %d", code)
		}
		p.waitLog("spans were not sent")
	}
}
