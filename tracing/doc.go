// Package tracing follows events with OpenTelemetry: one trace leads from a handler of the application, through the
// emit and the broker, to the write to the socket on each node that had one, and from an event of a client to its
// handler. Names and attributes are those of the semantic conventions for messaging, version 1.44.
//
// A [Tracer] is given to hub.Options.Tracers of all nodes, and to those of emitters without a hub. An emit is traced
// if the span in its context is sampled. Others cost a look at the context: not an allocation, not a byte between
// the nodes.
package tracing
