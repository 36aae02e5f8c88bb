package hub

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"tether/broker"
)

// interest keeps the broker's subscriptions equal to the rooms that have members on this node.
//
// It is driven by levels, not by edges: a join or a leave only marks the room, and one reconciler
// compares what is wanted with what is subscribed when it gets there, for many rooms in one broker
// call. A leave that races with a join can therefore not unsubscribe a room that has a member, and a
// room that comes and goes between two looks costs no call at all.
type interest struct {
	broker broker.Broker
	index  *index
	log    *slog.Logger

	wake    chan struct{} // one token: the queue is not empty
	stopped chan struct{} // closed when run has returned

	mu      sync.Mutex
	queue   []*room                 // guarded by mu; rooms whose queued flag is set
	waiters map[*room]chan struct{} // guarded by mu; closed when the room is subscribed or gone
}

const (
	interestBatch    = 1024            // subjects in one broker call
	interestTimeout  = 5 * time.Second // of one broker call
	interestMinRetry = 20 * time.Millisecond
	interestMaxRetry = 500 * time.Millisecond
)

// errInterestStopped is what waiters get when the hub has stopped.
var errInterestStopped = errors.New("hub: stopped")

func newInterest(b broker.Broker, x *index, log *slog.Logger) *interest {
	return &interest{
		broker:  b,
		index:   x,
		log:     log,
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
		waiters: make(map[*room]chan struct{}),
	}
}

// join adds s to the room with the given subject. Messages may arrive from now on; wait says from
// when on they do.
func (in *interest) join(subject string, s *Socket) membership {
	m, edge := in.index.join(subject, s)
	if edge {
		in.enqueue(m.room)
	}
	return m
}

// leave gives a membership back.
func (in *interest) leave(m membership) {
	if in.index.leave(m) {
		in.enqueue(m.room)
	}
}

// wait returns once every message that is published to the room of m from then on reaches this
// node, or the room is gone, because its members have left meanwhile.
func (in *interest) wait(ctx context.Context, m membership) error {
	sh := in.index.shard(m.room.hash)
	sh.mu.Lock()
	if m.room.subscribed || m.room.n == 0 { // an empty room may be forgotten already: nobody would release us
		sh.mu.Unlock()
		return nil
	}
	in.mu.Lock()
	ready := in.waiters[m.room]
	if ready == nil {
		ready = make(chan struct{})
		in.waiters[m.room] = ready
	}
	in.mu.Unlock()
	sh.mu.Unlock()

	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-in.stopped:
		return errInterestStopped
	}
}

func (in *interest) enqueue(r *room) {
	in.mu.Lock()
	in.queue = append(in.queue, r)
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// run reconciles until ctx is done.
func (in *interest) run(ctx context.Context) {
	defer close(in.stopped)
	retry := interestMinRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-in.wake:
		}
		for in.pending() {
			if err := in.reconcile(ctx); err == nil {
				retry = interestMinRetry
				continue
			} else if ctx.Err() == nil {
				in.log.Warn("broker subscriptions are behind", "error", err, "retry_in", retry)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(retry/2 + rand.N(retry)):
			}
			retry = min(2*retry, interestMaxRetry)
		}
	}
}

func (in *interest) pending() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.queue) > 0
}

// reconcile looks at one batch of queued rooms.
func (in *interest) reconcile(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, interestTimeout)
	defer cancel()
	wanted, unwanted := in.sort(in.take())
	var unsubscribed, subscribed error
	if len(unwanted) > 0 {
		unsubscribed = in.broker.Unsubscribe(ctx, subjects(unwanted)...)
		in.settle(unwanted, false) // after an error too: nothing of theirs is delivered any more
	}
	if len(wanted) > 0 {
		subscribed = in.broker.Subscribe(ctx, subjects(wanted)...)
		in.settle(wanted, subscribed == nil)
	}
	return errors.Join(unsubscribed, subscribed)
}

// take removes a batch from the queue.
func (in *interest) take() []*room {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := min(len(in.queue), interestBatch)
	batch := in.queue[:n:n]
	if in.queue = in.queue[n:]; len(in.queue) == 0 {
		in.queue = nil
	}
	return batch
}

// sort says what has to be done about the rooms of a batch, and marks those as busy.
func (in *interest) sort(batch []*room) (wanted, unwanted []*room) {
	for _, r := range batch {
		sh := in.index.shard(r.hash)
		sh.mu.Lock()
		r.queued = false
		gone := false
		switch want := r.n > 0; {
		case want && !r.subscribed:
			r.busy = true
			wanted = append(wanted, r)
		case !want && r.subscribed:
			r.busy, r.subscribed = true, false // who joins now must wait for the next round
			unwanted = append(unwanted, r)
		case !want:
			sh.removeLocked(r)
			gone = true
		}
		sh.mu.Unlock()
		if gone {
			in.release(r)
		}
	}
	return wanted, unwanted
}

// settle records what a broker call has come to, and queues again what has changed meanwhile.
func (in *interest) settle(rooms []*room, subscribed bool) {
	for _, r := range rooms {
		sh := in.index.shard(r.hash)
		sh.mu.Lock()
		r.busy, r.subscribed = false, subscribed
		again := r.edgeLocked()
		gone := !again && !subscribed
		if gone {
			sh.removeLocked(r)
		}
		sh.mu.Unlock()
		if subscribed || gone {
			in.release(r)
		}
		if again {
			in.enqueue(r)
		}
	}
}

// release lets those go who wait for r.
func (in *interest) release(r *room) {
	in.mu.Lock()
	ready := in.waiters[r]
	delete(in.waiters, r)
	in.mu.Unlock()
	if ready != nil {
		close(ready)
	}
}

func subjects(rooms []*room) []string {
	list := make([]string, len(rooms))
	for i, r := range rooms {
		list[i] = r.subject
	}
	return list
}
