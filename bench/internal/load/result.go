package load

import (
	"slices"

	"tether/bench/internal/check"
	"tether/bench/internal/hist"
)

// Snapshot is how far the clients are. Snapshots of several processes are added.
type Snapshot struct {
	At       int64  `json:"at"`
	Opened   uint64 `json:"opened"`    // handshakes begun
	InFlight int    `json:"in_flight"` // handshakes going on
	Up       int    `json:"up"`        // connections that are up now
	Failed   uint64 `json:"failed"`    // handshakes that failed
	Closed   uint64 `json:"closed"`    // connections that the server or the network closed
	Left     uint64 `json:"left"`      // connections that left by themselves
	Received uint64 `json:"received"`  // marked messages
	Events   uint64 `json:"events"`    // events, marked or not
	Bytes    uint64 `json:"bytes"`     // read
	Sent     uint64 `json:"sent"`      // events emitted by clients
	Answered uint64 `json:"answered"`  // of which were answered
	Pings    uint64 `json:"pings"`     // heartbeats answered
}

// Add adds o to s. The time is the later one.
func (s *Snapshot) Add(o Snapshot) {
	s.At = max(s.At, o.At)
	s.Opened += o.Opened
	s.InFlight += o.InFlight
	s.Up += o.Up
	s.Failed += o.Failed
	s.Closed += o.Closed
	s.Left += o.Left
	s.Received += o.Received
	s.Events += o.Events
	s.Bytes += o.Bytes
	s.Sent += o.Sent
	s.Answered += o.Answered
	s.Pings += o.Pings
}

// Broadcast is how long one message for everyone took.
type Broadcast struct {
	Publisher uint16 `json:"publisher"`
	Seq       uint64 `json:"seq"`
	At        int64  `json:"at"`        // when it was due
	Last      int64  `json:"last"`      // when the last receiver had it
	Receivers uint64 `json:"receivers"` //
}

// Result is what the clients saw. Results of several processes are merged.
type Result struct {
	Snapshot   Snapshot          `json:"snapshot"`
	Check      check.Counts      `json:"check"`
	Window     uint64            `json:"window"`               // marked messages received in the window that was set
	Handshake  hist.Hist         `json:"handshake"`            // from when a connection was due until it was up
	Latency    hist.Hist         `json:"latency"`              // from when a message was due until it was read
	Answer     hist.Hist         `json:"answer"`               // from when a client's event was due until its answer was read
	Broadcasts []Broadcast       `json:"broadcasts,omitempty"` // in no order, not those of the warm-up
	Failures   map[string]uint64 `json:"failures,omitempty"`   // why handshakes failed and connections were closed
	LastUp     int64             `json:"last_up"`              // when the last connection came up
}

// Merge adds o to r.
func (r *Result) Merge(o *Result) {
	r.Snapshot.Add(o.Snapshot)
	r.Check.Add(o.Check)
	r.Window += o.Window
	r.Handshake.Merge(&o.Handshake)
	r.Latency.Merge(&o.Latency)
	r.Answer.Merge(&o.Answer)
	r.LastUp = max(r.LastUp, o.LastUp)
	for why, n := range o.Failures {
		if r.Failures == nil {
			r.Failures = map[string]uint64{}
		}
		r.Failures[why] += n
	}
	for _, b := range o.Broadcasts {
		i := slices.IndexFunc(r.Broadcasts, func(a Broadcast) bool { return a.Publisher == b.Publisher && a.Seq == b.Seq })
		if i < 0 {
			r.Broadcasts = append(r.Broadcasts, b)
			continue
		}
		a := &r.Broadcasts[i]
		a.Last = max(a.Last, b.Last)
		a.Receivers += b.Receivers
	}
}
