package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"tether/bench/internal/clock"
	"tether/bench/internal/load"
	"tether/bench/internal/proc"
	"tether/bench/internal/report"
	"tether/bench/internal/scenario"
)

const loadText = `
bench load -url URL [flags] connects many clients to any Socket.IO v4 server over WebSocket, keeps
them for a while, and reports: handshakes, what came, how fast it came, who was thrown out. Clients
answer heartbeats. One process has as many as its descriptors allow; more are started as needed, and
source addresses are spread over 127.0.0.0/8, so that ports do not run short. With https:// each client
costs this machine TLS and one more way through the kernel, so latencies and numbers are for comparing
servers with TLS, not TLS with none; -slow needs http://.

  bench load -url http://127.0.0.1:3000 -conns 20000
  bench load -url http://127.0.0.1:3000 -auth '{"token":"{user}"}' -emit echo -rate 2000 -ack
  bench load -url http://127.0.0.1:3000 -emit chat -rate 500 -back

With -emit the clients emit in turn, by a schedule; the argument is a string. -ack asks for an answer
and times it; -back says that the server sends each client its own event back, which is then checked:
lost, doubled, inverted. Both are timed from when the event was due.

It ends after -time, or at Ctrl-C with the report so far. The exit status is 1 when an event was not
answered that should have been, when a message was lost, doubled, inverted or foreign, or when a connection
failed; what -slow and -churn cause does not count.`

// loadFlags are the flags of load.
type loadFlags struct {
	load.Options
	time, warm time.Duration
	emit       load.Emission
	back       bool
	perProcess int
	json       string
	name       string
}

// define defines the flags; the number of the run has none in o.
func (o *loadFlags) define(f *flag.FlagSet) {
	f.StringVar(&o.URL, "url", "", "the server: http://HOST:PORT or https://HOST:PORT, with a path unless it is /socket.io/")
	f.BoolVar(&o.Insecure, "insecure", false, "with https://, believe any certificate")
	f.BoolVar(&o.Remote, "remote", false, "allow a server that is not on a loopback address; only ever your own")
	f.IntVar(&o.Conns, "conns", 1000, "connections")
	f.Float64Var(&o.Rate, "ramp", 0, "new connections a second; 0: as fast as -in-flight allows")
	f.IntVar(&o.InFlight, "in-flight", 128, "handshakes at the same time")
	f.IntVar(&o.Users, "users", 0, "so many users share the connections; 0: one each")
	f.StringVar(&o.User, "user", "u{n}", "a user's ID, {n} being its number")
	f.StringVar(&o.Auth, "auth", "", `JSON to send with CONNECT, {user} and {n} replaced; - for none (default {"user":"{user}"})`)
	f.StringVar(&o.Ready, "ready", "", "a connection counts as up when this event has come")
	f.DurationVar(&o.time, "time", 10*time.Second, "how long to stay connected, the warm-up not included")
	f.DurationVar(&o.warm, "warm", time.Second, "how long to stay before anything is timed")
	f.StringVar(&o.emit.Event, "emit", "", "event that the clients emit")
	f.Float64Var(&o.emit.Rate, "rate", 100, "events a second, of all clients together")
	f.IntVar(&o.emit.Size, "size", 256, "bytes of an event's argument")
	f.BoolVar(&o.emit.Ack, "ack", false, "ask for an answer to each event")
	f.BoolVar(&o.back, "back", false, "the server sends each event back to its client")
	f.IntVar(&o.SlowEvery, "slow", 0, "every n-th client stops reading")
	f.IntVar(&o.ChurnEvery, "churn", 0, "every n-th client leaves and comes back")
	f.DurationVar(&o.Life, "life", 2*time.Second, "how long such a client stays on average")
	f.DurationVar(&o.Away, "away", 200*time.Millisecond, "how long such a client is away on average")
	f.IntVar(&o.perProcess, "per-process", 0, "clients of one process (default: what its descriptors allow)")
	f.StringVar(&o.json, "json", "", "write every raw figure to this file")
	f.StringVar(&o.name, "name", "", "what the report calls the server (default: its URL)")
}

func (c cli) load(ctx context.Context, args []string) error {
	f := c.flags("load", loadText)
	var o loadFlags
	o.define(f)
	run := f.Uint("run", 0, "number of the run in the marks of messages, to be timed when they come from bench serve; 0: a random one")
	names, help, err := c.parse(f, args)
	if help || err != nil {
		return err
	}
	switch {
	case len(names) > 0:
		return c.wrong(f, "what is %q?", names[0])
	case o.URL == "":
		return c.wrong(f, "which -url?")
	case o.Conns < 1 || o.Conns > 500_000 || o.time < 0 || o.warm < 0 || o.time > 24*time.Hour:
		return c.wrong(f, "-conns or -time is out of range")
	case o.emit.Event != "" && (o.emit.Rate <= 0 || o.emit.Rate > 1e7 || o.emit.Size < 0 || o.emit.Size > 1<<20):
		return c.wrong(f, "-rate or -size is out of range")
	}
	if _, err := o.Options.Resolve(); err != nil {
		return err
	}
	o.Run, o.Polite, o.Source = uint32(*run), true, rand.Uint32N(1<<20)
	if o.Run == 0 {
		o.Run = rand.Uint32()
	}
	return c.drive(ctx, o, args)
}

// drive connects, holds, and reports.
func (c cli) drive(ctx context.Context, o loadFlags, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	files := proc.Descriptors()
	if o.perProcess <= 0 {
		o.perProcess = max((files-500)/o.Descriptors(), 100)
	}
	group := proc.NewGroup()
	defer group.Close()
	fleet, err := load.NewFleet(o.Options, o.perProcess, func() (load.Process, error) {
		p, err := group.Start("load", self, []string{"worker"}, nil)
		if err != nil {
			return load.Process{}, err
		}
		return load.Process{In: p.In, Out: p.Out, End: func() { p.Wait(5 * time.Second) }}, nil
	})
	if err != nil {
		return err
	}
	defer fleet.Close()

	d := &driver{o: o, fleet: fleet, bar: newBar(c.err), began: clock.Now()}
	err = d.run(ctx)
	d.bar.end()
	if err != nil && ctx.Err() == nil && !errors.Is(err, errNobody) {
		return err
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // the report comes after Ctrl-C, too
	defer cancel()
	res, err := fleet.Result(late, nil)
	if err != nil {
		return err
	}
	result := d.report(res)
	result.Command = append([]string{"load"}, args...)
	result.Interrupted = ctx.Err() != nil
	result.Environment = report.ReadEnvironment(files)
	err = result.Print(c.out)
	if o.json != "" {
		err = errors.Join(err, result.Save(o.json))
	}
	return errors.Join(err, d.verdict(res, result.Interrupted))
}

// verdict is an error that says what went wrong with the server, if anything did.
func (d *driver) verdict(res *load.Result, interrupted bool) error {
	s := res.Snapshot
	if d.upAt == 0 && !interrupted {
		return errNobody
	}
	if interrupted || d.o.SlowEvery > 0 || d.o.ChurnEvery > 0 {
		return nil
	}
	var wrong []error
	if n := s.Sent - s.Answered; d.o.emit.Ack && n > 0 {
		wrong = append(wrong, fmt.Errorf("%d of %d events were not answered", n, s.Sent))
	}
	if n := res.Check.Faults(); n > 0 {
		wrong = append(wrong, fmt.Errorf("%d messages were lost, doubled, inverted or foreign", n))
	}
	if n := s.Failed + s.Closed; n > 0 {
		wrong = append(wrong, fmt.Errorf("%d connections failed or were closed", n))
	}
	return errors.Join(wrong...)
}

var errNobody = errors.New("no connection came up")

// driver is one bench load.
type driver struct {
	o      loadFlags
	fleet  *load.Fleet
	bar    *bar
	began  int64
	upAt   int64 // when the ramp was over
	from   int64 // the timed part
	to     int64
	points []report.Point
	last   load.Snapshot
	lastAt int64
}

func (d *driver) run(ctx context.Context) error {
	grown := make(chan error, 1)
	go func() { grown <- d.fleet.Grow(ctx, d.o.Conns) }() // answers when ctx is done at the latest
	if err := d.watch(ctx, "connecting", grown, 0, 0); err != nil {
		return err
	}
	if s := d.fleet.Snapshot(); s.Up == 0 {
		return errNobody
	}
	d.upAt = clock.Now()
	d.from = d.upAt + int64(d.o.warm)
	d.to = d.from + int64(d.o.time)
	if err := d.fleet.Window(d.from, d.to); err != nil {
		return err
	}
	if d.o.ChurnEvery > 0 {
		if err := d.fleet.Churn(true); err != nil {
			return err
		}
	}
	if d.o.emit.Event != "" {
		e := d.o.emit
		e.Start, e.Warm, e.Time, e.Publisher, e.Back = d.upAt, d.o.warm, d.o.time, 0x8000, d.o.back
		if err := d.fleet.Emit(e); err != nil {
			return err
		}
	}
	if err := d.watch(ctx, "holding", nil, d.upAt, d.to); err != nil {
		return err
	}
	return d.settle(ctx)
}

// settle waits for what is still on its way: a moment, and longer while answers are missing.
func (d *driver) settle(ctx context.Context) error {
	const moment, most = 300 * time.Millisecond, 3 * time.Second
	for end := clock.Now() + int64(most); ; {
		if err := clock.Sleep(ctx, clock.Now()+int64(moment)); err != nil {
			return err
		}
		s := d.fleet.Snapshot()
		if !d.o.emit.Ack || s.Answered >= s.Sent || clock.Now() > end {
			return nil
		}
	}
}

// watch shows the rates until something comes from done, or until the time to when done is nil.
func (d *driver) watch(ctx context.Context, phase string, done <-chan error, from, to int64) error {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-done:
			return err
		case <-t.C:
		}
		now, s := clock.Now(), d.fleet.Snapshot()
		if err := d.fleet.Err(); err != nil {
			return err
		}
		share := float64(s.Up) / float64(d.o.Conns)
		if done == nil {
			share = float64(now-from) / float64(max(to-from, 1))
		}
		if d.lastAt > 0 {
			seconds := float64(now-d.lastAt) / 1e9
			p := report.Point{
				Seconds: float64(now-d.began) / 1e9, Up: s.Up,
				Received: float64(s.Events-d.last.Events) / seconds, Emitted: float64(s.Sent-d.last.Sent) / seconds,
			}
			d.points = append(d.points, p)
			d.bar.load(phase, share, s, d.o.Conns, p.Received, p.Emitted)
		}
		d.last, d.lastAt = s, now
		if done == nil && now >= to {
			return nil
		}
	}
}

// report makes a report of one run on one peer.
func (d *driver) report(res *load.Result) *report.File {
	s := scenario.Scenario{
		Name: report.LoadScenario, Title: "Load on a server", Kind: scenario.Emit, Conns: d.o.Conns, Nodes: 1,
		About:   "Clients of bench load on a server that runs elsewhere.",
		Columns: []string{"up", "closed", "handshakes_s", "handshake_p50_ms", "handshake_p99_ms", "events_s"},
	}
	ms := func(ns time.Duration) float64 { return float64(ns) / float64(time.Millisecond) }
	m := map[string]float64{"up": float64(res.Snapshot.Up), "closed": float64(res.Snapshot.Closed), "left": float64(res.Snapshot.Left)}
	if seconds := float64(res.LastUp-d.began) / 1e9; seconds > 0 {
		m["handshakes_s"] = float64(res.Handshake.Count()) / seconds
	}
	if res.Handshake.Count() > 0 {
		m["handshake_p50_ms"], m["handshake_p99_ms"] = ms(res.Handshake.Quantile(0.5)), ms(res.Handshake.Quantile(0.99))
	}
	if held := float64(clock.Now()-d.upAt) / 1e9; d.upAt > 0 {
		m["events_s"] = float64(res.Snapshot.Events) / held
	}
	if d.o.ChurnEvery > 0 {
		s.Columns = append(s.Columns, "left")
	}
	if d.o.emit.Event != "" {
		s.Size = d.o.emit.Size
		m["emits_s"] = float64(res.Snapshot.Sent) / max(float64(min(clock.Now(), d.to)-d.upAt)/1e9, 0.001)
		s.Columns = append(s.Columns, "emits_s")
	}
	if d.o.emit.Ack {
		if res.Answer.Count() > 0 {
			m["answer_p50_ms"], m["answer_p99_ms"] = ms(res.Answer.Quantile(0.5)), ms(res.Answer.Quantile(0.99))
		}
		m["unanswered"] = float64(res.Snapshot.Sent - res.Snapshot.Answered)
		s.Columns = append(s.Columns, "answer_p50_ms", "answer_p99_ms", "unanswered")
	}
	r := report.Run{Scenario: s.Name, Peer: cmp.Or(d.o.name, d.o.URL), Repetition: 1, Metrics: m, Series: d.points, Handshake: &res.Handshake, Failures: res.Failures}
	r.Check, r.Latency = &res.Check, &res.Latency
	if d.o.emit.Ack && res.Latency.Count() == 0 {
		r.Latency = &res.Answer
	}
	if res.Latency.Count() > 0 {
		m["p50_ms"], m["p99_ms"] = ms(res.Latency.Quantile(0.5)), ms(res.Latency.Quantile(0.99))
		s.Columns = append(s.Columns, "p50_ms", "p99_ms")
	}
	return &report.File{Made: time.Now().UTC(), Scenarios: []scenario.Scenario{s}, Runs: []report.Run{r}}
}
