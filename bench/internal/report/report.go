// Package report is what a benchmark leaves behind: a file with every raw figure, tables, a page
// with plots, and a comparison of two files.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/hist"
	"tether/bench/internal/scenario"
)

// Version of the file format. A file of another version is refused.
const Version = 1

// File is a report. Everything that is shown is computed from what is in here.
type File struct {
	Version     int                 `json:"version"`
	Made        time.Time           `json:"made"`
	Command     []string            `json:"command"`
	Interrupted bool                `json:"interrupted,omitempty"`
	Environment Environment         `json:"environment"`
	Scenarios   []scenario.Scenario `json:"scenarios"`
	Runs        []Run               `json:"runs"`

	Name string `json:"-"` // of the file, for people
}

// Run is one repetition of one scenario on one peer.
type Run struct {
	Scenario   string             `json:"scenario"`
	Peer       string             `json:"peer"`
	Repetition int                `json:"repetition"`        // from 1; the peers take turns within one
	Metrics    map[string]float64 `json:"metrics"`           // by the names in Metrics
	Check      *check.Counts      `json:"check,omitempty"`   // of all receivers
	Latency    *hist.Hist         `json:"latency,omitempty"` // from due to read, not the warm-up
	Handshake  *hist.Hist         `json:"handshake,omitempty"`
	Call       *hist.Hist         `json:"call,omitempty"`     // of the emitter, from due (flat out: from the call) to its return
	Late       *hist.Hist         `json:"late,omitempty"`     // how late the emitter's schedule was
	Series     []Point            `json:"series,omitempty"`   // over time
	Steps      []Step             `json:"steps,omitempty"`    // over connections
	Errors     map[string]uint64  `json:"errors,omitempty"`   // of emits
	Failures   map[string]uint64  `json:"failures,omitempty"` // of connections
	Failed     string             `json:"failed,omitempty"`   // why the repetition has no figures
	CPU        map[string]float64 `json:"cpu,omitempty"`      // µs in the timed part, by process
}

// Point is a moment of a run.
type Point struct {
	Seconds  float64 `json:"s"`        // since the run began
	Up       int     `json:"up"`       // connections
	Received float64 `json:"received"` // messages a second
	Emitted  float64 `json:"emitted"`  // messages a second
	Resident int64   `json:"resident"` // bytes of all nodes
}

// Step is the weight of a server with a number of connections, in bytes.
type Step struct {
	Connections int   `json:"connections"`
	Process     int64 `json:"process"` // anonymous memory, as the operating system sees it
	Stack       int64 `json:"stack"`
	Heap        int64 `json:"heap"`
	KernelTCP   int64 `json:"kernel_tcp"`  // of both ends, since the server was empty
	KernelSlab  int64 `json:"kernel_slab"` // of both ends, since the server was empty
}

// Metric says how to read a figure.
type Metric struct {
	Name   string
	Title  string
	Unit   string
	Better int // -1: lower is better, 1: higher, 0: neither
}

// Metrics are all figures that runs have, in the order in which tables show them.
var Metrics = []Metric{
	{"cpu_us", "CPU per delivery", "µs", -1},
	{"all_cpu_us", "CPU per emit, all processes", "µs", -1},
	{"handshake_us", "CPU per handshake", "µs", -1},
	{"handshakes_s", "handshakes", "/s", 1},
	{"handshake_p50_ms", "handshake p50", "ms", -1},
	{"handshake_p99_ms", "handshake p99", "ms", -1},
	{"bytes", "process memory per connection", "B", -1},
	{"stack_bytes", "stacks", "B", -1},
	{"heap_bytes", "heap", "B", -1},
	{"other_bytes", "other memory", "B", -1},
	{"kernel_bytes", "kernel, both ends", "B", 0},
	{"last_ms", "until the last has it", "ms", -1},
	{"p50_ms", "latency p50", "ms", -1},
	{"p90_ms", "latency p90", "ms", -1},
	{"p99_ms", "latency p99", "ms", -1},
	{"p999_ms", "latency p99.9", "ms", -1},
	{"max_ms", "latency, most", "ms", 0},
	{"answer_p50_ms", "answer p50", "ms", -1},
	{"answer_p99_ms", "answer p99", "ms", -1},
	{"unanswered", "unanswered", "", -1},
	{"deliveries_s", "deliveries", "/s", 1},
	{"emits_s", "emits", "/s", 1},
	{"events_s", "events received", "/s", 0},
	{"wasted", "wasted node deliveries per emit", "", -1},
	{"grown_bytes", "peak memory over idle", "B", -1},
	{"up", "connections up", "", 0},
	{"left", "connections that left", "", 0},
	{"missed", "missed while away", "", 0},
	{"closed", "connections closed", "", 0},
	{"let_go", "clients that the server let go", "", 0},
	{"pings", "heartbeats answered", "", 0},
	{"hold_us", "CPU per connection and second", "µs", -1},
	{"failed", "failed emits", "", -1},
	{"others_pct", "machine used by others", "%", 0},
	{"late_p99_ms", "harness late p99", "ms", 0},
}

// MetricOf finds a metric by name. Unknown ones are shown as they are called.
func MetricOf(name string) Metric {
	if i := slices.IndexFunc(Metrics, func(m Metric) bool { return m.Name == name }); i >= 0 {
		return Metrics[i]
	}
	return Metric{Name: name, Title: name}
}

// Write writes f as JSON.
func (f *File) Write(w io.Writer) error {
	f.Version = Version
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(f)
}

// Save writes f to a file.
func (f *File) Save(path string) error {
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	err = f.Write(out)
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("report: write %s: %w", path, err)
	}
	return nil
}

// Load reads a report.
func Load(path string) (*File, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	defer in.Close()
	var f File
	if err := json.NewDecoder(in).Decode(&f); err != nil {
		return nil, fmt.Errorf("report: %s is no report: %w", path, err)
	}
	if f.Version != Version {
		return nil, fmt.Errorf("report: %s has version %d of the format, this program reads %d", path, f.Version, Version)
	}
	f.Name = filepath.Base(path)
	return &f, nil
}

// Summary is a figure over repetitions.
type Summary struct {
	Median, Min, Max float64
	N                int
}

func summarize(v []float64) Summary {
	if len(v) == 0 {
		return Summary{}
	}
	v = slices.Sorted(slices.Values(v))
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + mid) / 2
	}
	return Summary{mid, v[0], v[len(v)-1], len(v)}
}

// Spread is half the distance between the extremes, in percent of the median.
func (s Summary) Spread() float64 {
	if s.Median == 0 {
		return 0
	}
	return 50 * (s.Max - s.Min) / math.Abs(s.Median)
}

// of are the runs of a peer in a scenario.
func (f *File) of(scenario, peer string) (runs []Run) {
	for _, r := range f.Runs {
		if r.Scenario == scenario && r.Peer == peer {
			runs = append(runs, r)
		}
	}
	return runs
}

// Peers are those that have runs in a scenario, in the order in which they first ran.
func (f *File) Peers(scenario string) (peers []string) {
	for _, r := range f.Runs {
		if r.Scenario == scenario && !slices.Contains(peers, r.Peer) {
			peers = append(peers, r.Peer)
		}
	}
	return peers
}

// Value summarizes a metric of a peer in a scenario.
func (f *File) Value(scenario, peer, metric string) Summary {
	var v []float64
	for _, r := range f.of(scenario, peer) {
		if x, ok := r.Metrics[metric]; ok {
			v = append(v, x)
		}
	}
	return summarize(v)
}

// Ratio summarizes a metric of a peer divided by the same of another, repetition by repetition:
// both ran within a minute of each other, which is what makes the ratio mean something.
func (f *File) Ratio(scenario, peer, limit, metric string) Summary {
	var v []float64
	for _, r := range f.of(scenario, peer) {
		for _, l := range f.of(scenario, limit) {
			a, ok := r.Metrics[metric]
			b := l.Metrics[metric]
			if l.Repetition == r.Repetition && ok && b > 0 {
				v = append(v, a/b)
			}
		}
	}
	return summarize(v)
}

// Faults adds what the checks of a peer found over all repetitions.
func (f *File) Faults(scenario, peer string) (c check.Counts) {
	for _, r := range f.of(scenario, peer) {
		if r.Check != nil {
			c.Add(*r.Check)
		}
	}
	return c
}

// merged is the histogram of all repetitions.
func (f *File) merged(scenario, peer string, pick func(*Run) *hist.Hist) *hist.Hist {
	var h hist.Hist
	for _, r := range f.of(scenario, peer) {
		h.Merge(pick(&r))
	}
	return &h
}
