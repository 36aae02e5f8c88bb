package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"tether/broker"
)

// A mark is what W3C Trace Context calls traceparent and tracestate, without its letters:
//
//	16 bytes  trace ID
//	8 bytes   ID of the span
//	byte      flags
//	rest      tracestate, as text
const markSize = 25

// maxState is the longest tracestate that goes with an event. A longer one is left out, as Trace Context allows.
const maxState = 200

func appendMark(c trace.SpanContext) []byte {
	id, span := c.TraceID(), c.SpanID()
	mark := append(make([]byte, 0, markSize), id[:]...)
	mark = append(append(mark, span[:]...), byte(c.TraceFlags()))
	if state := c.TraceState().String(); len(state) <= maxState {
		mark = append(mark, state...)
	}
	return mark
}

// parseMark reports false for what is none. A tracestate that cannot be read is left out.
func parseMark(mark []byte) (trace.SpanContext, bool) {
	if len(mark) < markSize || len(mark) > markSize+maxState {
		return trace.SpanContext{}, false
	}
	state, err := trace.ParseTraceState(string(mark[markSize:]))
	if err != nil {
		state = trace.TraceState{}
	}
	c := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(mark[:16]), SpanID: trace.SpanID(mark[16:24]), TraceFlags: trace.TraceFlags(mark[24]),
		TraceState: state, Remote: true,
	})
	return c, c.IsValid() && c.IsSampled()
}

// Trace says what a mark means to other programs at the broker: see [hub.Tracer].
func (t *Tracer) Trace(mark []byte) *broker.Trace {
	c, ok := parseMark(mark)
	if !ok {
		return nil
	}
	header := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithRemoteSpanContext(context.Background(), c), header)
	return &broker.Trace{Parent: header["traceparent"], State: header["tracestate"]}
}
