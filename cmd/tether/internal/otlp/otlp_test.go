package otlp

import (
	"context"
	"log/slog"
	"net/http"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// TestHowManyRequestsBeginATraceCanChange while the server runs.
func TestHowManyRequestsBeginATraceCanChange(t *testing.T) {
	traces, err := New(t.Context(), Options{Endpoint: "http://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel() // nobody is there to send to
	defer traces.Close(ended)
	sampled := func() (n int) {
		for range 6 {
			r, err := http.NewRequestWithContext(t.Context(), "POST", "/emit", nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := traces.Request(t.Context(), r)
			if trace.SpanContextFromContext(ctx).IsSampled() {
				n++
			}
			end(nil, nil)
		}
		return n
	}
	for _, every := range []int{0, 1, 3, 0} {
		traces.SetEvery(every)
		want := 0
		if every > 0 {
			want = 6 / every
		}
		if got := sampled(); got != want {
			t.Errorf("one in %d: %d of 6 requests begin a trace, want %d", every, got, want)
		}
	}
	(*Traces)(nil).SetEvery(1) // a server without traces
}
