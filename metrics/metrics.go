// Package metrics shows the figures of a node to Prometheus.
//
//	m := metrics.New()
//	sockets, err := transport.NewHandler(h, transport.Options{OnWritten: m.Written})
//	m.Watch(h, sockets)
//	prometheus.MustRegister(m)
//
// Nothing is worked out before somebody asks, except the times from emit to write, which one event in 64
// carries. Labels are bounded: none holds a user, a room or what a client has made up. docs/metrics.md lists all.
package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tether/engine"
	"tether/hub"
	"tether/presence"
	"tether/transport"
)

// Collector is the figures of one node: a [prometheus.Collector].
type Collector struct {
	node     atomic.Pointer[node]
	latency  prometheus.Histogram
	ahead    prometheus.Counter
	events   events
	changes  changes
	exemplar [2]atomic.Int64 // when the last one was noted, of quick and of slow events, in nanoseconds of Unix time
}

type node struct {
	hub     *hub.Hub
	sockets *transport.Handler

	presence *presence.Presence // nil: there is none
	events   *events
	changes  *changes
}

const (
	slow          = 100 * time.Millisecond
	exemplarEvery = time.Second
)

// New returns a collector that has nothing to show before Watch.
func New() *Collector {
	return &Collector{
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: latency.name, Help: latency.help,
			Buckets:                         prometheus.ExponentialBuckets(0.0001, 4, 10), // for servers that do not take native ones: 0.1 ms to 26 s
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}),
		ahead: prometheus.NewCounter(prometheus.CounterOpts{Name: ahead.name, Help: ahead.help}),
	}
}

// Watch says whose figures they are. The handler may be nil, for a node with another transport. The
// presence of the hub is shown too, if it has been made.
func (c *Collector) Watch(h *hub.Hub, sockets *transport.Handler) {
	n := &node{hub: h, sockets: sockets, presence: presence.Of(h), events: &c.events, changes: &c.changes}
	if n.presence != nil {
		n.presence.Watch(c.changes.told)
	}
	c.node.Store(n)
}

// Written is for [transport.Options].OnWritten. Once a second an event is noted as an exemplar, with the
// public ID of its connection, and once a second one that took long.
func (c *Collector) Written(conn engine.Conn, took time.Duration) {
	if took < 0 {
		c.ahead.Inc()
		took = 0
	}
	last := &c.exemplar[0]
	if took >= slow {
		last = &c.exemplar[1]
	}
	now, before := time.Now().UnixNano(), last.Load()
	if now-before < int64(exemplarEvery) || !last.CompareAndSwap(before, now) {
		c.latency.Observe(took.Seconds())
		return
	}
	c.latency.(prometheus.ExemplarObserver).ObserveWithExemplar(took.Seconds(),
		prometheus.Labels{"connection": engine.PublicID(conn.ID())})
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range table {
		if m.read != nil {
			out <- m.desc
		}
	}
	c.latency.Describe(out)
	c.ahead.Describe(out)
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	n := c.node.Load()
	if n == nil {
		return
	}
	r := n.read()
	for _, m := range table {
		if m.read == nil {
			continue
		}
		m.read(r, func(v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
		})
	}
	c.latency.Collect(out)
	c.ahead.Collect(out)
}
