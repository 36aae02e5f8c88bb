package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/clock"
	"tether/bench/internal/control"
	"tether/bench/internal/emit"
	"tether/bench/internal/load"
	"tether/bench/internal/proc"
	"tether/bench/internal/report"
)

const publisher = 1

// job is what the emitter is told.
func (c *cluster) job() emit.Job {
	j := emit.Job{
		Run: c.run, Publisher: publisher, Everyone: c.s.Everyone, Users: c.s.Conns, Rate: c.s.Rate, Tick: time.Duration(c.s.Tick), Burst: c.s.Burst,
		Size: c.s.Size, Lanes: max(c.s.Lanes, 1), Ahead: c.s.Ahead, Warm: time.Duration(c.s.WarmUp), Time: time.Duration(c.s.Time),
		Start: clock.Now() + int64(400*time.Millisecond),
	}
	if c.peer.oneLane {
		j.Lanes = 1
	}
	return j
}

// emit runs a job and measures its timed part.
func (c *cluster) emit(ctx context.Context, w *watch, r *report.Run) error {
	if err := c.connect(ctx, w, c.s.Conns); err != nil {
		return err
	}
	for _, n := range c.nodes {
		w.idle += proc.Resident(n.PID)
	}
	before, err := c.stats(ctx)
	if err != nil {
		return err
	}
	j := c.job()
	from := j.Start + int64(j.Warm)
	to := from + int64(j.Time)
	for _, f := range c.fleets {
		if err := f.Window(from, to); err != nil {
			return err
		}
		if c.s.ChurnEvery > 0 {
			if err := f.Churn(true); err != nil {
				return err
			}
		}
	}
	w.phase("emitting")
	w.timed(from, to)
	m, err := c.during(ctx, j, from, to)
	if err != nil {
		return err
	}
	for _, f := range c.fleets {
		if c.s.ChurnEvery > 0 {
			if err := f.Churn(false); err != nil {
				return err
			}
		}
	}
	w.phase("draining")
	if err := c.drain(ctx, m.result); err != nil {
		return err
	}
	res, err := c.results(ctx, []check.Sent{m.result.Sent})
	if err != nil {
		return err
	}
	after, err := c.stats(ctx)
	if err != nil {
		return err
	}
	c.evaluate(r, res, m, after.Messages-before.Messages)
	r.Metrics["let_go"] = float64(max(before.Connections-after.Connections, 0))
	return nil
}

// stats adds up what the nodes say of themselves.
func (c *cluster) stats(ctx context.Context) (all control.Stats, err error) {
	for _, s := range c.nodes {
		st, err := s.control.Stats(ctx)
		if err != nil {
			return all, err
		}
		all.Connections += st.Connections
		all.Messages += st.Messages
	}
	return all, nil
}

// measured is the timed part of a job.
type measured struct {
	before, after reading
	result        *emit.Result
	job           emit.Job
}

// during runs the job and reads the CPU at both ends of its timed part.
func (c *cluster) during(ctx context.Context, j emit.Job, from, to int64) (*measured, error) {
	type answer struct {
		r   *emit.Result
		err error
	}
	answers := make(chan answer, 1)
	jobCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the job, which cancel ends
		r, err := c.emitter.control.Emit(jobCtx, j)
		answers <- answer{r, err}
	}()
	relayed := make(chan struct{})
	go func() { // waited for below
		defer close(relayed)
		if j.Ahead > 0 {
			c.relay(jobCtx)
		}
	}()
	defer func() { cancel(); <-relayed }()
	m := &measured{job: j}
	var err error
	if err = clock.Sleep(ctx, from); err == nil {
		m.before, err = c.cpu()
	}
	profiled := c.profile(ctx, fmt.Sprintf("profile?seconds=%d", max(int(j.Time.Seconds()), 1)), "cpu")
	if err == nil {
		err = clock.Sleep(ctx, to)
	}
	if err == nil {
		m.after, err = c.cpu()
	}
	if e := <-profiled; err == nil {
		err = e
	}
	if err != nil {
		cancel()
		<-answers
		return nil, err
	}
	t := time.NewTimer(20 * time.Second)
	defer t.Stop()
	select {
	case a := <-answers:
		m.result = a.r
		return m, a.err
	case <-t.C:
		cancel()
		<-answers
		return nil, fmt.Errorf("runner: the emitter did not end its job")
	}
}

// profile fetches a profile of the first node, and of an emitter apart, into the directory of the
// configuration, if there is one and they are Go. The channel gets the error when that is done, and must be read.
func (c *cluster) profile(ctx context.Context, which, kind string) <-chan error {
	done := make(chan error, 1)
	if c.cfg.Profile == "" || c.peer.redisOnly {
		done <- nil
		return done
	}
	save := func(s *server, name string) error {
		data, err := s.control.Profile(ctx, which)
		if err == nil {
			err = os.MkdirAll(c.cfg.Profile, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(c.cfg.Profile, name+"."+kind), data, 0o644)
		}
		return err
	}
	go func() { // the reader of done waits for it
		name := c.s.Name + "-" + c.peer.Name
		emitter := make(chan error, 1)
		if c.emitter == c.nodes[0] {
			emitter <- nil
		} else {
			go func() { emitter <- save(c.emitter, name+"-emitter") }() // waited for below
		}
		err := save(c.nodes[0], name)
		done <- errors.Join(err, <-emitter)
	}()
	return done
}

// relay tells a flat-out emitter how far the receivers are, until ctx is done.
func (c *cluster) relay(ctx context.Context) {
	base := c.snapshot().Received
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			_ = c.emitter.control.Received(ctx, c.snapshot().Received-base) // the next one says it again
		}
	}
}

// drain waits until everything has arrived, or nothing has for a while.
func (c *cluster) drain(ctx context.Context, r *emit.Result) error {
	const quiet = 1500 * time.Millisecond
	want := r.Sent.Total() + r.Sent.Everyone*uint64(c.s.Conns)
	last, since := uint64(0), clock.Now()
	for end := clock.Now() + int64(20*time.Second); clock.Now() < end; {
		got := c.snapshot().Received
		if got >= want {
			break
		}
		if got != last {
			last, since = got, clock.Now()
		}
		if clock.Now()-since > int64(quiet) {
			break
		}
		if err := clock.Sleep(ctx, clock.Now()+int64(20*time.Millisecond)); err != nil {
			return err
		}
	}
	return clock.Sleep(ctx, clock.Now()+int64(100*time.Millisecond)) // what comes twice, comes now
}

// evaluate turns what was measured into metrics. carried is what brokers delivered to nodes.
func (c *cluster) evaluate(r *report.Run, res *load.Result, m *measured, carried uint64) {
	nodes, all := c.used(r, m.before, m.after)
	seconds := m.job.Time.Seconds()
	v := r.Metrics
	if res.Window > 0 {
		v["cpu_us"] = nodes / float64(res.Window)
	}
	if m.result.Window > 0 {
		v["all_cpu_us"] = all / float64(m.result.Window)
	}
	v["deliveries_s"] = float64(res.Window) / seconds
	v["emits_s"] = float64(m.result.Window) / seconds
	quantiles := map[string]float64{"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1}
	for name, q := range quantiles {
		v[name] = float64(res.Latency.Quantile(q)) / ms
	}
	if len(res.Broadcasts) > 0 {
		var last []float64
		for _, b := range res.Broadcasts {
			last = append(last, float64(b.Last-b.At)/ms)
		}
		slices.Sort(last)
		v["last_ms"] = last[len(last)/2]
	}
	if emits := m.result.Sent.Total() + m.result.Sent.Everyone; emits > 0 && c.s.Broker != "" {
		// What the receipts say where there are receipts, and what the nodes counted where not.
		nodesTook := float64(carried) / float64(emits)
		if m.result.Told > 0 {
			nodesTook = float64(m.result.Nodes) / float64(m.result.Told)
		}
		if carried > 0 || m.result.Told > 0 {
			v["wasted"] = max(nodesTook-1, 0)
		}
	}
	v["failed"] = float64(m.result.Failed())
	v["closed"] = float64(res.Snapshot.Closed)
	v["left"] = float64(res.Snapshot.Left)
	v["missed"] = float64(res.Check.Missed)
	v["late_p99_ms"] = float64(m.result.Late.Quantile(0.99)) / ms
	r.Check, r.Latency, r.Call, r.Late = &res.Check, &res.Latency, &m.result.Call, &m.result.Late
	r.Errors, r.Failures = m.result.Errors, res.Failures
}
