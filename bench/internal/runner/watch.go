package runner

import (
	"sync"
	"time"

	"tether/bench/internal/clock"
	"tether/bench/internal/proc"
	"tether/bench/internal/report"
)

// watch samples a repetition while it runs, for the plot and for the progress line.
type watch struct {
	c    *cluster
	done chan struct{}
	all  sync.WaitGroup

	mu   sync.Mutex
	at   Progress // guarded by mu
	from int64    // guarded by mu; the timed part, 0 when there is none
	to   int64

	idle   int64          // resident bytes before the first message, owned by the repetition
	points []report.Point // owned by the sampler until stop returns
	peak   int64          // resident bytes, owned by the sampler until stop returns
}

const sampleEvery = 200 * time.Millisecond

func newWatch(c *cluster, at Progress) *watch {
	w := &watch{c: c, at: at, done: make(chan struct{})}
	w.all.Go(w.sample) // stop waits for it
	return w
}

func (w *watch) phase(name string) {
	w.mu.Lock()
	w.at.Phase = name
	w.mu.Unlock()
}

func (w *watch) timed(from, to int64) {
	w.mu.Lock()
	w.from, w.to = from, to
	w.mu.Unlock()
}

func (w *watch) stop() {
	close(w.done)
	w.all.Wait()
}

func (w *watch) sample() {
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	began := clock.Now()
	last, before := began, w.c.snapshot()
	for {
		select {
		case <-w.done:
			return
		case <-t.C:
		}
		now, s := clock.Now(), w.c.snapshot()
		seconds := float64(now-last) / 1e9
		var resident int64
		for _, n := range w.c.nodes {
			resident += proc.Resident(n.PID)
		}
		w.peak = max(w.peak, resident)
		p := report.Point{
			Seconds: float64(now-began) / 1e9, Up: s.Up, Resident: resident,
			Received: float64(s.Received-before.Received) / seconds,
		}
		w.points = append(w.points, p)
		w.mu.Lock()
		at := w.at
		if w.to > w.from && now > w.from {
			at.Share = min(float64(now-w.from)/float64(w.to-w.from), 1)
		}
		w.mu.Unlock()
		at.Snapshot, at.Rate = s, p.Received
		w.c.cfg.Progress(at)
		last, before = now, s
	}
}
