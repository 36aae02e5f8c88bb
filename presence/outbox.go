package presence

import (
	"context"
	"time"
)

// outbox sends things to nodes: to each node one batch at a time, of all that has gathered for it. What could not
// be sent is sent again, to the node that it is for then. All is guarded by the presence's mu.
type outbox[T queueable] struct {
	p     *Presence
	route func(T) string                                     // with the lock held; "": there is nobody yet
	send  func(ctx context.Context, to string, list []T) []T // without it; it returns what has to be sent again
	lanes map[string][]T                                     // what waits, by node; there is a lane while something is being sent
}

// queueable is something that knows whether it waits in an outbox.
type queueable interface{ inQueue() *bool }

const (
	minRetry = 20 * time.Millisecond
	maxRetry = 200 * time.Millisecond
)

// pushLocked adds an item, unless it waits already. If there is nobody to send it to, it has to be pushed again
// when there is.
func (o *outbox[T]) pushLocked(item T) {
	to := o.route(item)
	if to == "" || !o.p.up || *item.inQueue() {
		return
	}
	*item.inQueue() = true
	lane, busy := o.lanes[to]
	if o.lanes == nil {
		o.lanes = make(map[string][]T)
	}
	o.lanes[to] = append(lane, item)
	if !busy && o.p.work.Begin() {
		go o.run(to) // Presence.Run waits for it
	}
}

func (o *outbox[T]) emptyLocked() bool { return len(o.lanes) == 0 }

// run sends what is for a node until nothing is left.
func (o *outbox[T]) run(to string) {
	defer o.p.work.End()
	pause := minRetry
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	for o.p.up {
		var list []T
		waiting := o.lanes[to]
		o.lanes[to] = nil
		for _, item := range waiting {
			*item.inQueue() = false
			if o.route(item) == to {
				list = append(list, item)
			} else {
				o.pushLocked(item)
			}
		}
		if len(list) == 0 && len(o.lanes[to]) == 0 {
			break
		}
		o.p.mu.Unlock()
		again := o.send(o.p.hooks, to, list)
		if len(again) > 0 {
			wait(o.p.hooks, pause)
			pause = min(2*pause, maxRetry)
		} else {
			pause = minRetry
		}
		o.p.mu.Lock()
		for _, item := range again {
			o.pushLocked(item)
		}
	}
	delete(o.lanes, to)
	o.p.turnLocked()
}

// wait waits for d, or until ctx is done.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
