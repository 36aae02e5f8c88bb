package redis

import (
	"context"
	"maps"
	"slices"
	"time"
)

// refreshIfDue starts a refresh if the last one is old.
func (a *atlas) refreshIfDue() {
	if a.trust.disputed.Load() {
		a.refreshAfter(2 * doubtTime)
		return
	}
	a.refreshAfter(refreshTime)
}

// doubt starts a refresh unless one has begun just now.
func (a *atlas) doubt() { a.refreshAfter(doubtTime) }

func (a *atlas) refreshAfter(d time.Duration) {
	if a.clock()-time.Duration(a.asked.Load()) >= d {
		a.refresh()
	}
}

// refresh asks the servers, unless that is being done. The channel is closed when it is over.
func (a *atlas) refresh() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asking != nil {
		return a.asking
	}
	done := make(chan struct{})
	a.asked.Store(int64(a.clock()))
	if !a.life.spawn(func() { // the life waits for it
		for again := true; again; {
			a.survey()
			a.mu.Lock()
			if again, a.again = a.again, false; !again {
				a.asking = nil
			}
			a.mu.Unlock()
			a.poke()
		}
		close(done)
	}) {
		close(done)
		return done
	}
	a.asking = done
	return done
}

// survey asks all shards, and if none answers everybody else, and believes the latest epoch. Masters that
// it hears of are asked, too, so that who thinks that he serves what others serve is known.
func (a *atlas) survey() {
	begin := a.clock()
	a.mu.Lock()
	others := slices.Clone(a.others)
	known := slices.Collect(maps.Values(a.shards))
	a.mu.Unlock()
	answers := gather(len(known), func(i int) (*chart, error) { return a.askShard(known[i]) })
	best, err := latest(answers)
	if best == nil {
		for _, seed := range a.seeds {
			if !slices.Contains(others, seed) {
				others = append(others, seed)
			}
		}
		best, err = latest(gather(len(others), func(i int) (*chart, error) { return a.askOther(others[i]) }))
	}
	if best == nil {
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
		return
	}
	if more := a.unasked(best, known); len(more) > 0 {
		heard := gather(len(more), func(i int) (*chart, error) { return a.askShard(more[i]) })
		known, answers = append(known, more...), append(answers, heard...)
		best, _ = latest(append(heard, asked{chart: best}))
	}
	said := make(map[*shard]*chart)
	for i, s := range known {
		if c := answers[i].chart; c != nil {
			said[s] = c
		}
	}
	a.install(best, said, begin)
}

// unasked returns the masters of a chart that are not known yet.
func (a *atlas) unasked(m *chart, known []*shard) (more []*shard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range m.owner {
		if addr == "" {
			continue
		}
		if s := a.shardLocked(addr); !slices.Contains(known, s) && !slices.Contains(more, s) {
			more = append(more, s)
		}
	}
	return more
}

func (a *atlas) askShard(s *shard) (*chart, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if s.asker == nil {
		c, err := s.dialTo(ctx, s.addr)
		if err != nil {
			return nil, err
		}
		c.timeout = askTime
		s.asker = c
	}
	m, err := s.asker.chart()
	if err != nil {
		s.asker.nc.Close()
		s.asker = nil
		s.fail()
	}
	return m, err
}

func (a *atlas) askOther(addr string) (*chart, error) {
	ctx, cancel := context.WithTimeout(context.Background(), a.o.DialTimeout)
	defer cancel()
	c, err := a.guide.dialTo(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.nc.Close()
	return c.chart()
}
