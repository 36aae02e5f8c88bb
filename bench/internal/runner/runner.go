package runner

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"tether/bench/internal/load"
	"tether/bench/internal/report"
	"tether/bench/internal/scenario"
)

// Config is what to run and how.
type Config struct {
	Self        string   // this program, which is every process that is not a broker or Node
	NodeDir     string   // of the Node server
	Env         []string // added to the environment of the servers
	Scenarios   []scenario.Scenario
	Peers       []Peer // each scenario's limit is added
	Repetitions int
	PerProcess  int    // connections of a load process
	Profile     string // directory for profiles of our own nodes; empty: none
	Progress    func(Progress)
}

// Progress is where a run is.
type Progress struct {
	Scenario   string
	Peer       string
	Step       int // of Steps: repetitions of all peers and scenarios
	Steps      int
	Phase      string
	Wanted     int // connections
	Snapshot   load.Snapshot
	Rate       float64 // messages a second, now
	Share      float64 // of the timed part, 0 to 1
	Repetition int
}

// turn is one repetition of one peer.
type turn struct {
	s    scenario.Scenario
	peer Peer
	rep  int
}

// turns are all repetitions, in order: the peers of a scenario take turns, so that what changes on
// the machine in the meantime changes for all, and every other round goes backwards.
func (cfg *Config) turns() (all []turn, err error) {
	for _, s := range cfg.Scenarios {
		peers, err := cfg.peersOf(s)
		if err != nil {
			return nil, err
		}
		for rep := range max(cfg.Repetitions, s.Minimum, 1) {
			for _, p := range peers {
				all = append(all, turn{s, p, rep + 1})
			}
			slices.Reverse(peers)
		}
	}
	return all, nil
}

func (cfg *Config) peersOf(s scenario.Scenario) (peers []Peer, err error) {
	if s.Limit != "" {
		p, err := PeerOf(s.Limit)
		if err != nil {
			return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
		}
		peers = append(peers, p)
	}
	for _, p := range cfg.Peers {
		if p.limit || s.Broker == "nats" && p.redisOnly {
			continue
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// Run runs everything into f. When ctx is done it ends what it started and returns the context's
// error; f has the repetitions that were complete. A repetition that fails is noted in f, and the
// error of the last one is returned at the end.
func (cfg *Config) Run(ctx context.Context, f *report.File) error {
	turns, err := cfg.turns()
	if err != nil {
		return err
	}
	f.Scenarios = cfg.Scenarios
	run := rand.Uint32N(1 << 20)
	var failed error
	for i, t := range turns {
		run++
		r, err := cfg.turn(ctx, t, run, Progress{Scenario: t.s.Name, Peer: t.peer.Name, Step: i + 1, Steps: len(turns), Repetition: t.rep})
		if ctx.Err() != nil {
			f.Interrupted = true
			return ctx.Err()
		}
		if err != nil {
			failed = fmt.Errorf("%s on %s: %w", t.s.Name, t.peer.Name, err)
			r = &report.Run{Scenario: t.s.Name, Peer: t.peer.Name, Repetition: t.rep, Failed: err.Error()}
		}
		f.Runs = append(f.Runs, *r)
	}
	return failed
}

// turn runs one repetition with fresh processes.
func (cfg *Config) turn(ctx context.Context, t turn, run uint32, at Progress) (*report.Run, error) {
	at.Phase, at.Wanted = "starting", t.s.Conns
	cfg.Progress(at)
	c, err := cfg.open(ctx, t.s, t.peer, run)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.prepare(); err != nil {
		return nil, err
	}
	w := newWatch(c, at)
	r := &report.Run{Scenario: t.s.Name, Peer: t.peer.Name, Repetition: t.rep, Metrics: map[string]float64{}}
	switch t.s.Kind {
	case scenario.Idle:
		err = c.idle(ctx, w, r)
	case scenario.Storm:
		err = c.storm(ctx, w, r)
	case scenario.Hold:
		err = c.hold(ctx, w, r)
	default:
		err = c.emit(ctx, w, r)
	}
	w.stop()
	if err != nil {
		return nil, c.diagnose(err)
	}
	r.Series = w.points
	if t.s.Kind == scenario.Emit {
		r.Metrics["grown_bytes"] = float64(max(w.peak-w.idle, 0))
	}
	return r, nil
}

const ms = float64(time.Millisecond)
