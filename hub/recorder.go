package hub

import (
	"context"
	"sync"
	"time"
)

// dropping is the record of a session that has ended.
type dropping struct {
	key, owner string
	until      time.Time // when the broker forgets it anyway
}

// dropRecord forgets the record of a session that has ended. What fails is tried again: if this node were killed then
// another one would go on with the session.
func (h *Hub) dropRecord(k key, owner string) {
	d := dropping{k.recordKey(), owner, time.Now().Add(h.kept.Age())}
	if !h.work.Begin() {
		return
	}
	go func() { // Hub.Run waits for it
		defer h.work.End()
		_ = h.drop(context.Background(), d)
	}()
}

func (h *Hub) drop(ctx context.Context, d dropping) error {
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	err := h.kept.Drop(ctx, d.key, d.owner)
	if err != nil {
		h.log.Debug("the record of a session that has ended is still in the broker", "error", err)
		h.drops.set(d, time.Now().Add(time.Second))
	}
	return err
}

// dropAgain tries again what has failed, until something fails.
func (h *Hub) dropAgain(ctx context.Context) {
	now := time.Now()
	var err error
	for _, d := range h.drops.passed(now) {
		switch {
		case now.After(d.until):
		case err != nil:
			h.drops.set(d, now.Add(time.Second))
		default:
			err = h.drop(ctx, d)
		}
	}
}

const (
	recordEvery = 50 * time.Millisecond // between two looks at what has to be saved
	savers      = 8
)

// recorder saves records when they have changed, and again before the broker forgets them, until ctx is done.
func (h *Hub) recorder(ctx context.Context) {
	ticker := time.NewTicker(recordEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		h.dropAgain(ctx)
		due := h.records.passed(time.Now())
		if len(due) == 0 {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, claimTime)
		have, err := h.kept.Head(asking)
		if err == nil {
			err = h.fence(asking, []string{h.subject}) // what it has is what came before this
		}
		cancel()
		if err != nil {
			have = 0
		}
		var group sync.WaitGroup
		for i := range savers {
			group.Go(func() { // waited for below
				for j := i; j < len(due) && ctx.Err() == nil; j += savers {
					saving, cancel := context.WithTimeout(ctx, claimTime)
					_ = due[j].current().save(saving, have) // it is tried again
					cancel()
				}
			})
		}
		group.Wait()
	}
}

// endedWith reports whether the session has ended, so that nobody may go on with it.
func (s *Socket) endedWith(v *session, k key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.State() != stateGone || v.holder.Load() != s || v.passed != "" || v.why == lossNode {
		return false
	}
	return v.home == "" || s.client.hub.lapsed.whyOf(k.hash) == lossRefused // else it was about to come, and comes once more
}

// overtaken ends what this node has of a session that another one has: this node was off their lists.
func (s *Socket) overtaken(v *session) {
	s.mu.Lock()
	if holder := v.holder.Load(); holder != s { // it comes to know when it saves the record
		s.mu.Unlock()
		s.client.hub.records.add(holder, time.Now())
		return
	}
	v.gap, v.kept.saved = true, false
	v.log.Cut()
	parked := s.gate.State() == stateParked
	s.mu.Unlock()
	s.client.hub.departed.forward(s.ID())
	if parked {
		s.lapse(lossNode)
	} else {
		s.conn.Close(ReasonServerClose)
	}
}
