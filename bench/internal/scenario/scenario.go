// Package scenario describes workloads as data.
package scenario

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

//go:embed scenarios.json
var builtin string

// Duration is a time in JSON as people write it: "2s".
type Duration time.Duration

// UnmarshalJSON reads "1m30s".
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// MarshalJSON writes "1m30s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// Kind is what a scenario does.
type Kind string

const (
	Emit  Kind = "emit"  // connect, then emit by a schedule or flat out
	Idle  Kind = "idle"  // connect in steps and weigh the server after each
	Storm Kind = "storm" // connect as fast as the server can
	Hold  Kind = "hold"  // connect, and stay
)

// Scenario is one workload. All servers are given the same.
type Scenario struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	About string `json:"about"` // what it shows, and how to read it
	Kind  Kind   `json:"kind"`
	Long  bool   `json:"long,omitempty"` // runs only when it is named

	Conns  int    `json:"conns"`
	Steps  []int  `json:"steps,omitempty"`  // idle: numbers of connections at which the server is weighed
	Warm   int    `json:"warm,omitempty"`   // storm: connections before the clock starts
	Nodes  int    `json:"nodes,omitempty"`  // default 1
	Broker string `json:"broker,omitempty"` // redis, nats, or empty for none
	Apart  bool   `json:"apart,omitempty"`  // the emitter is a process of its own, without connections

	Rate     float64  `json:"rate,omitempty"`  // emits a second (bursts, broadcasts); 0: flat out
	Tick     Duration `json:"tick,omitempty"`  // how often the schedule wakes up; default 1 ms
	Burst    int      `json:"burst,omitempty"` // messages to a user at a time
	Everyone bool     `json:"everyone,omitempty"`
	Lanes    int      `json:"lanes,omitempty"` // concurrent emits
	Ahead    int      `json:"ahead,omitempty"` // flat out: messages on their way
	Size     int      `json:"size,omitempty"`  // bytes of a payload
	WarmUp   Duration `json:"warm_up,omitempty"`
	Time     Duration `json:"time,omitempty"`

	SlowEvery  int      `json:"slow_every,omitempty"`
	ChurnEvery int      `json:"churn_every,omitempty"`
	Life       Duration `json:"life,omitempty"`
	Away       Duration `json:"away,omitempty"`
	Ready      string   `json:"ready,omitempty"` // event after which a connection is up; empty: CONNECT's answer

	Limit   string   `json:"limit,omitempty"`   // what it is compared with: phys, floor, or a peer
	Against []string `json:"against,omitempty"` // peers that it is compared with, too, when they are measured
	Columns []string `json:"columns"`           // metrics of the table, the first is the headline
	Ratios  []string `json:"ratios,omitempty"`  // metrics that are divided by the limit's and by those of Against
	Minimum int      `json:"minimum,omitempty"` // repetitions; default 1
}

// Builtin are the scenarios that come with the program.
func Builtin() ([]Scenario, error) { return Read(strings.NewReader(builtin)) }

// Read reads scenarios, a JSON array, and checks them.
func Read(r io.Reader) ([]Scenario, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	var all []Scenario
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	for i := range all {
		if err := all[i].check(); err != nil {
			return nil, fmt.Errorf("scenario %q: %w", all[i].Name, err)
		}
	}
	return all, nil
}

const maxConns = 200_000

func (s *Scenario) check() error {
	s.Nodes = max(s.Nodes, 1)
	s.Burst = max(s.Burst, 1)
	if s.Size == 0 {
		s.Size = 256
	}
	switch {
	case s.Name == "" || s.Title == "":
		return errors.New("it needs a name and a title")
	case s.Conns < 1 || s.Conns > maxConns:
		return fmt.Errorf("conns must be 1 to %d", maxConns)
	case s.Nodes > 64:
		return errors.New("nodes must be 64 at most")
	case len(s.Columns) == 0:
		return errors.New("it needs columns")
	case s.Nodes > 1 && s.Broker == "":
		return errors.New("several nodes need a broker")
	case s.Apart && s.Broker == "":
		return errors.New("an emitter of its own needs a broker")
	case s.Broker != "" && s.Broker != "redis" && s.Broker != "nats":
		return fmt.Errorf("unknown broker %q", s.Broker)
	}
	switch s.Kind {
	case Emit, Hold:
		if s.Time <= 0 || time.Duration(s.Time+s.WarmUp) > 15*time.Minute {
			return errors.New("it needs a time, 15 minutes at most")
		}
	case Idle:
		if len(s.Steps) == 0 || !slices.IsSorted(s.Steps) || s.Steps[len(s.Steps)-1] > s.Conns {
			return errors.New("idle needs steps, rising, none above conns")
		}
	case Storm:
		if s.Warm >= s.Conns {
			return errors.New("warm must be below conns")
		}
	default:
		return fmt.Errorf("unknown kind %q", s.Kind)
	}
	return nil
}

// Scale changes the size of a scenario: connections and times by a factor each, at least one
// connection a node. It is for a quick look, and the report says so.
func (s Scenario) Scale(conns, times float64) Scenario {
	by := func(n int) int { return max(int(float64(n)*conns), min(n, 1)) }
	s.Conns = max(by(s.Conns), s.Nodes)
	s.Warm = min(by(s.Warm), s.Conns-1)
	s.Steps = slices.Clone(s.Steps)
	for i := range s.Steps {
		s.Steps[i] = min(by(s.Steps[i]), s.Conns)
	}
	s.WarmUp = Duration(float64(s.WarmUp) * times)
	s.Time = Duration(float64(s.Time) * times)
	return s
}

// Select picks scenarios by name or by pattern, as in [path.Match]; no names: all that are
// not long.
func Select(all []Scenario, names []string) ([]Scenario, error) {
	if len(names) == 0 {
		return slices.DeleteFunc(slices.Clone(all), func(s Scenario) bool { return s.Long }), nil
	}
	var picked []Scenario
	for _, name := range names {
		found := false
		for _, s := range all {
			match, err := path.Match(name, s.Name)
			if err != nil {
				return nil, fmt.Errorf("scenario: %q is no pattern", name)
			}
			if !match {
				continue
			}
			found = true
			if !slices.ContainsFunc(picked, func(p Scenario) bool { return p.Name == s.Name }) {
				picked = append(picked, s)
			}
		}
		if !found {
			return nil, fmt.Errorf("scenario: none is called %q; bench run -list shows all", name)
		}
	}
	return picked, nil
}
