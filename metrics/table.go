package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"tether/hub"
	"tether/transport"
)

// metric is a line of the table, which is all that there is.
type metric struct {
	name, unit, help string
	kind             prometheus.ValueType
	labels           []string
	values           string // what the labels may be, for people
	read             func(r *reading, show show)
	desc             *prometheus.Desc
}

// show shows a value, with the labels in their order.
type show = func(v float64, labels ...string)

// reading is what a scrape sees.
type reading struct {
	hub     hub.Stats
	sockets transport.Stats

	name, version   string
	members         int
	certain         bool // the list of members is right as far as this node knows
	ready, draining bool
	serves          bool // there is a transport of ours

	users   int // -1: there is no presence
	events  *events
	changes *changes
}

func (n *node) read() *reading {
	r := &reading{hub: n.hub.Stats(), name: n.hub.Node(), serves: n.sockets != nil, users: -1, events: n.events, changes: n.changes}
	if n.presence != nil {
		r.users = n.presence.Users()
	}
	if r.serves {
		r.sockets = n.sockets.Stats()
	}
	members, err := n.hub.Members()
	r.members, r.certain = len(members), err == nil
	for _, m := range members {
		if m.Name == r.name {
			r.version = m.Version
		}
	}
	err = n.hub.Ready()
	r.ready, r.draining = err == nil, errors.Is(err, hub.ErrDraining)
	return r
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// These two are kept by the collector itself.
var (
	latency = metric{name: "tether_emit_to_write_seconds", unit: "seconds", kind: prometheus.UntypedValue,
		help: "Time from an emit, on whatever node, until the connection took the event. One emit in 64 is timed, and of several in one write the oldest. A native histogram, with ten classic buckets beside it. Between nodes it is wrong by as much as their clocks differ."}
	ahead = metric{name: "tether_emit_clock_ahead_total", unit: "events", kind: counter,
		help: "Timed events that had come before they were emitted, by the clocks of the two nodes. They count as 0 s."}
)

var table = described([]metric{
	// What the packages for Socket.IO on Node call it.
	one("socket_io_connected", "sockets", gauge, "Sockets that are connected or connecting: one for each connection and namespace.",
		func(r *reading) float64 { return float64(r.hub.Sockets) }),
	one("socket_io_connect_total", "sockets", counter, "Sockets that were told that they are connected.",
		func(r *reading) float64 { return float64(r.hub.Connected) }),
	{name: "socket_io_disconnect_total", unit: "sockets", kind: counter, labels: []string{"reason"}, values: "Socket.IO's reasons, or other",
		help: "Sockets that were connected and have ended.",
		read: func(r *reading, show show) {
			for reason, n := range r.hub.Disconnected {
				if reason == "" {
					reason = "other"
				}
				show(float64(n), string(reason))
			}
		}},
	one("socket_io_events_received_total", "events", counter, "Events of clients that were handled.",
		func(r *reading) float64 { return float64(r.hub.Events) }),
	{name: "tether_events_received_total", unit: "events", kind: counter, labels: []string{"namespace", "event"},
		values: "names that On was called for, 200 at most; all others are other, and what clients make up is not counted here",
		help:   "Events of clients, by name. Only with the Tracer of Collector.Events.",
		read:   func(r *reading, show show) { r.events.show(show) }},
	one("socket_io_events_sent_total", "packets", counter, "Packets handed to connections: one for each client that an event is for.",
		func(r *reading) float64 { return float64(r.hub.Delivered) }),
	{name: "socket_io_errors_total", unit: "events", kind: counter, labels: []string{"kind"}, values: "refused, protocol, panic, timeout, expired, unhandled, unfit",
		help: "What went wrong with clients: a CONNECT was refused, a packet broke the protocol, a handler panicked, a CONNECT, a hook or an attachment took too long, a token expired, an event had no handler, or arguments did not fit.",
		read: func(r *reading, show show) {
			show(float64(r.hub.Refused), "refused")
			show(float64(r.hub.ProtocolErrors), "protocol")
			show(float64(r.hub.Panics), "panic")
			show(float64(r.hub.TimedOut), "timeout")
			show(float64(r.hub.Expired), "expired")
			show(float64(r.hub.Unhandled), "unhandled")
			show(float64(r.hub.Unfit), "unfit")
		}},
	served("socket_io_transmit_bytes_total", "bytes", counter, "Written to clients: WebSocket frames and answers to polling, heartbeats included, compressed if they are.",
		func(s *transport.Stats) float64 { return float64(s.BytesOut) }),
	served("socket_io_receive_bytes_total", "bytes", counter, "Received from clients: WebSocket messages and bodies of polling.",
		func(s *transport.Stats) float64 { return float64(s.BytesIn) }),

	// The node.
	{name: "tether_node_info", unit: "", kind: gauge, labels: []string{"node", "version"}, values: "the node's own",
		help: "Always 1. The labels say which node this is.",
		read: func(r *reading, show show) { show(1, r.name, r.version) }},
	one("tether_ready", "", gauge, "1 while the node should get new connections: messages make the round trip through the broker, and no drain has begun.",
		func(r *reading) float64 { return bit(r.ready) }),
	one("tether_draining", "", gauge, "1 while the node sends its clients away.",
		func(r *reading) float64 { return bit(r.draining) }),
	one("tether_members", "nodes", gauge, "Nodes on the list of the cluster, this one included.",
		func(r *reading) float64 { return float64(r.members) }),
	one("tether_members_certain", "", gauge, "0 while the list may be wrong, because this node is new or does not hear the others.",
		func(r *reading) float64 { return bit(r.certain) }),
	one("tether_connections", "connections", gauge, "Clients that are attached, in a namespace or not yet.",
		func(r *reading) float64 { return float64(r.hub.Connections) }),
	served("tether_connections_opened_total", "connections", counter, "Sessions that were opened.",
		func(s *transport.Stats) float64 { return float64(s.Opened) }),
	one("tether_connections_shed_total", "connections", counter, "Connections that the server dropped so that their clients come back, to another node perhaps: a rebalance.",
		func(r *reading) float64 { return float64(r.hub.Shed) }),
	one("tether_rooms", "rooms", gauge, "Rooms and users with a socket on this node.",
		func(r *reading) float64 { return float64(r.hub.Rooms) }),
	one("tether_namespaces", "namespaces", gauge, "Namespaces: fixed ones, and matched ones with a socket.",
		func(r *reading) float64 { return float64(r.hub.Namespaces) }),

	// Clients that come back.
	{name: "tether_resumes_total", unit: "sockets", kind: counter, labels: []string{"outcome"}, values: "recovered, expired, overflowed, unknown, refused, node-lost, gap, question",
		help: "Clients that wanted their session back: they have it, with every event; or why they began anew.",
		read: func(r *reading, show show) {
			h := &r.hub
			show(float64(h.Recovered), "recovered")
			show(float64(h.UnrecoveredExpired), "expired")
			show(float64(h.UnrecoveredOverflowed), "overflowed")
			show(float64(h.UnrecoveredUnknown), "unknown")
			show(float64(h.UnrecoveredRefused), "refused")
			show(float64(h.UnrecoveredNodeLost), "node-lost")
			show(float64(h.UnrecoveredGap), "gap")
			show(float64(h.UnrecoveredQuestion), "question")
		}},
	one("tether_parked", "sessions", gauge, "Sessions that wait for their clients to come back.",
		func(r *reading) float64 { return float64(r.hub.Parked) }),
	one("tether_kept_bytes", "bytes", gauge, "Memory of events that are kept for clients that may come back.",
		func(r *reading) float64 { return float64(r.hub.Kept) }),

	// Through the broker.
	one("tether_emits_total", "events", counter, "Events emitted by this node, once for each target.",
		func(r *reading) float64 { return float64(r.hub.Emitted) }),
	{name: "tether_receipts_total", unit: "events", kind: counter, labels: []string{"answer"}, values: "nobody, unknown, error",
		help: "Of the emitted events: nobody was there, for certain; the broker could not tell; it returned an error. All others were taken by a node.",
		read: func(r *reading, show show) {
			show(float64(r.hub.Nobody), "nobody")
			show(float64(r.hub.Unknown), "unknown")
			show(float64(r.hub.Unplaced), "error")
		}},
	one("tether_broker_messages_total", "messages", counter, "Messages that came from the broker.",
		func(r *reading) float64 { return float64(r.hub.Received) }),
	one("tether_unwanted_total", "messages", counter, "Messages that came for a room or a socket that had gone: deliveries that nobody wanted.",
		func(r *reading) float64 { return float64(r.hub.Wasted) }),
	{name: "tether_unreadable_total", unit: "messages", kind: counter, labels: []string{"why"}, values: "malformed, newer, untrusted",
		help: "Messages from the broker that no hub could have sent, that are of a newer version, or that were refused for want of the key.",
		read: func(r *reading, show show) {
			show(float64(r.hub.Malformed), "malformed")
			show(float64(r.hub.Newer), "newer")
			show(float64(r.hub.Untrusted), "untrusted")
		}},
	one("tether_gaps_total", "gaps", counter, "Times in which messages of the broker may have been missed.",
		func(r *reading) float64 { return float64(r.hub.Gaps) }),
	{name: "tether_questions_total", unit: "questions", kind: counter, labels: []string{"outcome"}, values: "complete, gone, late, lost, left, failed",
		help: "Questions of this node to the cluster: all have answered; a node has gone; a node was late; a part is lost, or a node has answered with an error; the caller wanted no more; or it could not be put.",
		read: func(r *reading, show show) {
			q := r.hub.Questions
			show(float64(q.Complete), "complete")
			show(float64(q.Gone), "gone")
			show(float64(q.Late), "late")
			show(float64(q.Lost), "lost")
			show(float64(q.Left), "left")
			show(float64(q.Failed), "failed")
		}},
	latency,
	ahead,

	// Users.
	{name: "tether_users", unit: "users", kind: gauge,
		help: "Users with a device on this node, and for a moment those whose last one has gone. Only with package presence.",
		read: func(r *reading, show show) {
			if r.users >= 0 {
				show(float64(r.users))
			}
		}},
	{name: "tether_presence_changes_total", unit: "users", kind: counter, labels: []string{"to"}, values: "online, offline",
		help: "Users who have come online and gone offline, that this node has told of: each change is told on one node. None where nobody is told: see webhook.url.",
		read: func(r *reading, show show) {
			if r.users >= 0 {
				show(float64(r.changes.online.Load()), "online")
				show(float64(r.changes.offline.Load()), "offline")
			}
		}},

	// Slow clients.
	served("tether_queue_bytes", "bytes", gauge, "What waits for all clients together, as memory; the first 4 KiB of each do not count.",
		func(s *transport.Stats) float64 { return float64(s.Queued) }),
	served("tether_queue_clients", "clients", gauge, "Clients for which 4 KiB or more wait.",
		func(s *transport.Stats) float64 { return float64(s.Behind) }),
	served("tether_queue_longest_bytes", "bytes", gauge, "What waits for the client with the longest queue, rounded down to a power of two; 0 below 4 KiB.",
		func(s *transport.Stats) float64 { return float64(s.Longest) }),
	served("tether_unfinished_bytes", "bytes", gauge, "Memory of messages from clients that are not complete.",
		func(s *transport.Stats) float64 { return float64(s.Unfinished) }),
	{name: "tether_dropped_total", unit: "packets", kind: counter, labels: []string{"policy"}, values: "drop-newest, drop-oldest, latest, volatile",
		help: "Packets that a client did not get, by the policy that allows it.",
		read: func(r *reading, show show) {
			if s := r.sockets; r.serves {
				show(float64(s.DroppedNewest), "drop-newest")
				show(float64(s.DroppedOldest), "drop-oldest")
				show(float64(s.Replaced), "latest")
				show(float64(s.Volatile), "volatile")
			}
		}},
	{name: "tether_slow_clients_total", unit: "connections", kind: counter, labels: []string{"cause"}, values: "queue, write-timeout, total-queue",
		help: "Connections ended by the policy close: the queue was full, the client took nothing for the write timeout, or all queues together were full.",
		read: func(r *reading, show show) {
			if s := r.sockets; r.serves {
				show(float64(s.SlowQueue), "queue")
				show(float64(s.SlowWrites), "write-timeout")
				show(float64(s.SlowTotal), "total-queue")
			}
		}},
})

// one is a metric with one value.
func one(name, unit string, kind prometheus.ValueType, help string, read func(r *reading) float64) metric {
	return metric{name: name, unit: unit, kind: kind, help: help, read: func(r *reading, show show) { show(read(r)) }}
}

// served is one of the transport.
func served(name, unit string, kind prometheus.ValueType, help string, read func(s *transport.Stats) float64) metric {
	return metric{name: name, unit: unit, kind: kind, help: help, read: func(r *reading, show show) {
		if r.serves {
			show(read(&r.sockets))
		}
	}}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func described(list []metric) []metric {
	for i := range list {
		m := &list[i]
		m.desc = prometheus.NewDesc(m.name, m.help, m.labels, nil)
	}
	return list
}
