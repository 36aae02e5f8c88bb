package hub

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"tether/broker"
)

// interest keeps the broker's subscriptions equal to the rooms that have members on this node. What
// it has to look at is queued in the shards of the index, so that those who join and leave share no
// lock but a shard's.
//
// It is driven by levels, not by edges: a join or a leave only marks the room, and one reconciler
// compares what is wanted with what is subscribed when it gets there, for many rooms in one broker
// call. A leave that races with a join can therefore not unsubscribe a room that has a member, and a
// room that comes and goes between two looks costs no call at all.
type interest struct {
	broker broker.Broker
	index  *index
	log    *slog.Logger

	wake    chan struct{} // one token: a shard has a queue
	stopped chan struct{} // closed when run has returned

	next int // owned by run; the shard at which it goes on
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

// withdraw has the member get what comes without keeping the room subscribed, until it leaves.
func (in *interest) withdraw(m *membership) {
	if in.index.withdraw(m) {
		in.enqueue(m.room)
	}
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
	if m.live {
		return nil
	}
	sh := in.index.shard(m.room)
	sh.mu.Lock()
	if m.room.subscribed || m.room.n == 0 { // an empty room may be forgotten already: nobody would release us
		sh.mu.Unlock()
		return nil
	}
	ready := sh.waiters[m.room]
	if ready == nil {
		ready = make(chan struct{})
		if sh.waiters == nil {
			sh.waiters = make(map[*room]chan struct{})
		}
		sh.waiters[m.room] = ready
	}
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

// enqueue has run look at r's shard. R is in the shard's queue.
func (in *interest) enqueue(r *room) {
	in.index.mark(r)
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
	for i := range in.index.dirty {
		if in.index.dirty[i].Load() != 0 {
			return true
		}
	}
	return false
}

// reconcile looks at one batch of queued rooms.
func (in *interest) reconcile(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, interestTimeout)
	defer cancel()
	wanted, unwanted := in.take()
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

// take removes a batch from the queues, and says what has to be done about its rooms. It goes on where
// it stopped, so that no shard waits for others that are always busy.
func (in *interest) take() (wanted, unwanted []*room) {
	left := interestBatch
	for range shardCount {
		word, bit := &in.index.dirty[in.next/64], uint64(1)<<(in.next%64)
		if word.Load()&bit != 0 {
			word.And(^bit) // before looking: who comes later sets it again
			sh := &in.index.shards[in.next]
			sh.mu.Lock()
			n := min(len(sh.queue), left)
			wanted, unwanted = in.sortLocked(sh, sh.queue[:n], wanted, unwanted)
			if sh.queue = sh.queue[n:]; len(sh.queue) == 0 {
				sh.queue = nil
			} else {
				word.Or(bit)
			}
			sh.mu.Unlock()
			if left -= n; left == 0 {
				break
			}
		}
		in.next = (in.next + 1) % shardCount
	}
	return wanted, unwanted
}

// sortLocked appends the rooms of a batch about which something has to be done, and marks them as busy.
func (in *interest) sortLocked(sh *shard, batch, wanted, unwanted []*room) (w, u []*room) {
	for _, r := range batch {
		r.queued = false
		switch want := r.n > 0; {
		case want && !r.subscribed:
			r.busy = true
			wanted = append(wanted, r)
		case !want && r.subscribed:
			r.busy, r.subscribed = true, false // who joins now must wait for the next round
			unwanted = append(unwanted, r)
		case !want:
			if sh.idleLocked(r) {
				in.index.forgetLocked(sh, r)
			}
			sh.releaseLocked(r)
		}
	}
	return wanted, unwanted
}

// settle records what a broker call has come to, and queues again what has changed meanwhile.
func (in *interest) settle(rooms []*room, subscribed bool) {
	for _, r := range rooms {
		sh := in.index.shard(r)
		sh.mu.Lock()
		r.busy, r.subscribed = false, subscribed
		again := sh.edgeLocked(r)
		gone := !again && !subscribed
		if sh.idleLocked(r) {
			in.index.forgetLocked(sh, r)
		}
		if subscribed || gone {
			sh.releaseLocked(r)
		}
		sh.mu.Unlock()
		if again {
			in.enqueue(r)
		}
	}
}

// releaseLocked lets those go who wait for r.
func (sh *shard) releaseLocked(r *room) {
	if ready := sh.waiters[r]; ready != nil {
		close(ready)
		if delete(sh.waiters, r); len(sh.waiters) == 0 {
			sh.waiters = nil // a map does not shrink
		}
	}
}

func subjects(rooms []*room) []string {
	list := make([]string, len(rooms))
	for i, r := range rooms {
		list[i] = r.subject
	}
	return list
}
