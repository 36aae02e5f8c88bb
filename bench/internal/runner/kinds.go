package runner

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/clock"
	"tether/bench/internal/load"
	"tether/bench/internal/proc"
	"tether/bench/internal/report"
)

// connect connects all clients and insists that they are up.
func (c *cluster) connect(ctx context.Context, w *watch, n int) error {
	w.phase("connecting")
	if err := c.grow(ctx, n); err != nil {
		return err
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if s := c.snapshot(); s.Up < n {
		err := fmt.Errorf("runner: %d of %d connections are up, %d handshakes failed, %d connections were closed", s.Up, n, s.Failed, s.Closed)
		if res, e := c.results(ctx, nil); e == nil {
			for why, k := range res.Failures {
				err = fmt.Errorf("%w\n%d × %s", err, k, why)
			}
		}
		return err
	}
	return nil
}

// results merges what the clients of all nodes saw.
func (c *cluster) results(ctx context.Context, sent []check.Sent) (*load.Result, error) {
	var all load.Result
	for _, f := range c.fleets {
		r, err := f.Result(ctx, sent)
		if err != nil {
			return nil, err
		}
		all.Merge(r)
	}
	return &all, nil
}

// idle weighs the server at each number of connections.
func (c *cluster) idle(ctx context.Context, w *watch, r *report.Run) error {
	empty, kernel, err := c.weigh(ctx)
	if err != nil {
		return err
	}
	for _, n := range c.s.Steps {
		if err := c.connect(ctx, w, n); err != nil {
			return err
		}
		w.phase("weighing")
		step, k, err := c.weigh(ctx)
		if err != nil {
			return err
		}
		step.Connections = n
		step.Process -= empty.Process
		step.Stack -= empty.Stack
		step.Heap -= empty.Heap
		step.KernelTCP, step.KernelSlab = k.TCP-kernel.TCP, k.Slab-kernel.Slab
		r.Steps = append(r.Steps, step)
		each := func(v int64) float64 { return float64(v) / float64(n) }
		r.Metrics["bytes"] = each(step.Process)
		r.Metrics["stack_bytes"] = each(step.Stack)
		r.Metrics["heap_bytes"] = each(step.Heap)
		r.Metrics["other_bytes"] = each(step.Process - step.Stack - step.Heap)
		r.Metrics["kernel_bytes"] = each(step.KernelTCP + step.KernelSlab)
	}
	return <-c.profile(ctx, "heap", "heap")
}

// weigh collects the garbage of all nodes and adds up what they hold then.
func (c *cluster) weigh(ctx context.Context) (report.Step, proc.Kernel, error) {
	var s report.Step
	for _, n := range c.nodes {
		m, err := n.control.Collect(ctx)
		if err != nil {
			return s, proc.Kernel{}, err
		}
		p, err := proc.ReadMemory(n.PID)
		if err != nil {
			return s, proc.Kernel{}, err
		}
		s.Process += p.Anonymous
		s.Stack += m.Stack
		s.Heap += m.Heap
	}
	k, err := proc.ReadKernel()
	return s, k, err
}

// storm connects everybody and takes the time and the CPU of it.
func (c *cluster) storm(ctx context.Context, w *watch, r *report.Run) error {
	if err := c.connect(ctx, w, c.s.Warm); err != nil {
		return err
	}
	for _, f := range c.fleets {
		if err := f.Reset(); err != nil {
			return err
		}
	}
	before, err := c.cpu()
	if err != nil {
		return err
	}
	profiled := c.profile(ctx, "profile?seconds=1", "cpu")
	from := clock.Now()
	w.phase("connecting")
	if err := c.grow(ctx, c.s.Conns); err != nil {
		return err
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	if err := <-profiled; err != nil {
		return err
	}
	res, err := c.results(ctx, nil)
	if err != nil {
		return err
	}
	if err := c.connect(ctx, w, c.s.Conns); err != nil {
		return err
	}
	n := float64(c.s.Conns - c.s.Warm)
	nodes, all := c.used(r, before, after)
	r.Handshake = &res.Handshake
	r.Failures = res.Failures
	r.Metrics["handshake_us"] = nodes / n
	r.Metrics["all_cpu_us"] = all / n
	r.Metrics["handshakes_s"] = n / (float64(res.LastUp-from) / 1e9)
	r.Metrics["handshake_p50_ms"] = float64(res.Handshake.Quantile(0.5)) / ms
	r.Metrics["handshake_p99_ms"] = float64(res.Handshake.Quantile(0.99)) / ms
	return nil
}

// hold connects everybody and waits.
func (c *cluster) hold(ctx context.Context, w *watch, r *report.Run) error {
	empty, _, err := c.weigh(ctx)
	if err != nil {
		return err
	}
	if err := c.connect(ctx, w, c.s.Conns); err != nil {
		return err
	}
	before, err := c.cpu()
	if err != nil {
		return err
	}
	from := clock.Now()
	to := from + int64(c.s.Time)
	w.phase("holding")
	w.timed(from, to)
	if err := clock.Sleep(ctx, to); err != nil {
		return err
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	full, _, err := c.weigh(ctx)
	if err != nil {
		return err
	}
	res, err := c.results(ctx, nil)
	if err != nil {
		return err
	}
	nodes, _ := c.used(r, before, after)
	r.Failures = res.Failures
	r.Metrics["up"] = float64(res.Snapshot.Up)
	r.Metrics["closed"] = float64(res.Snapshot.Closed)
	r.Metrics["pings"] = float64(res.Snapshot.Pings)
	r.Metrics["bytes"] = float64(full.Process-empty.Process) / float64(c.s.Conns)
	r.Metrics["hold_us"] = nodes / float64(c.s.Conns) / time.Duration(c.s.Time).Seconds()
	return nil
}

// reading is what was used up to a moment.
type reading struct {
	by      map[string]proc.CPU // the servers, by name
	ours    time.Duration       // of them, the clients, and this process
	machine proc.Machine
}

// cpu reads what everything has used.
func (c *cluster) cpu() (r reading, err error) {
	r.by = map[string]proc.CPU{}
	for name, pid := range c.processes() {
		if r.by[name], err = proc.ReadCPU(pid); err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		r.ours += r.by[name].Total
	}
	for _, pid := range append([]int{os.Getpid()}, c.loaders...) {
		v, err := proc.ReadCPU(pid)
		if err != nil {
			return r, err
		}
		r.ours += v.Total
	}
	r.machine, err = proc.ReadMachine()
	return r, err
}

// used notes the difference of two readings in r, and returns the µs of the nodes and of all servers.
func (c *cluster) used(r *report.Run, before, after reading) (nodes, all float64) {
	r.CPU = map[string]float64{}
	for name := range after.by {
		us := float64(after.by[name].Sub(before.by[name]).Total) / float64(time.Microsecond)
		r.CPU[name] = us
		all += us
		if slices.ContainsFunc(c.nodes, func(n *server) bool { return n.Name == name }) {
			nodes += us
		}
	}
	busy, total := after.machine.Busy-before.machine.Busy, after.machine.Total-before.machine.Total
	if total > 0 {
		r.Metrics["others_pct"] = max(100*float64(busy-(after.ours-before.ours))/float64(total), 0)
	}
	return nodes, all
}
