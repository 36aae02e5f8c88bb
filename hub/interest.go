package hub

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"tether/broker"
)

// interest keeps the broker's subscriptions equal to the rooms that have members on this node. What
// it has to look at is queued in the shards of the index, so that joins and leaves share no lock but that of
// a shard.
//
// It is driven by levels, not by edges: a join or a leave only marks the room, and one reconciler
// compares what is wanted with what is subscribed when it gets there, for many rooms in one broker
// call. A leave that races with a join can therefore not unsubscribe a room that has a member, and a
// room that comes and goes between two looks costs no call at all.
//
// A room whose subscription fails waits apart, with those that failed in the same call, and is tried
// again with them: it holds up no other room.
type interest struct {
	broker broker.Broker
	index  *index
	log    *slog.Logger
	gap    func(broker.Gap) // told when a room that was lost is subscribed again, or gone

	wake    chan struct{} // one token: a shard has a queue
	stopped chan struct{} // closed when run has returned

	// Owned by run.
	next   int // the shard at which it goes on
	failed []failedRooms
	found  []broker.Gap // of rooms that had been lost; to be reported
	warned time.Time    // when a failure was logged last

	mu   sync.Mutex
	lost map[*room]broker.Gap // guarded by mu; rooms that the backend has ended
}

// failedRooms could not be subscribed in one call. They count as queued.
type failedRooms struct {
	rooms []*room
	due   time.Time     // when they are tried again
	pause time.Duration // before that
}

const (
	interestBatch      = 1024            // subjects in one broker call
	interestTimeout    = 5 * time.Second // of one broker call
	interestMinRetry   = 20 * time.Millisecond
	interestMaxRetry   = 500 * time.Millisecond
	interestMaxRefused = 5 * time.Second // the longest pause when the backend refuses
	interestWarn       = time.Second     // between two log lines about failures
)

// errInterestStopped is what waiters get when the hub has stopped.
var errInterestStopped = errors.New("hub: stopped")

func newInterest(b broker.Broker, x *index, log *slog.Logger, gap func(broker.Gap)) *interest {
	return &interest{
		broker:  b,
		index:   x,
		log:     log,
		gap:     gap,
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
		lost:    make(map[*room]broker.Gap),
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

// wait returns nil once every message that is published to the room of m from then on reaches this
// node, or the room is gone, because its members have left meanwhile. It fails when the backend
// refuses the room.
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
	w := sh.waiters[m.room]
	if w == nil {
		w = &waiters{done: make(chan struct{})}
		if sh.waiters == nil {
			sh.waiters = make(map[*room]*waiters)
		}
		sh.waiters[m.room] = w
	}
	sh.mu.Unlock()

	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	case <-in.stopped:
		return errInterestStopped
	}
}

// enqueue has run look at r's shard. R is in the shard's queue.
func (in *interest) enqueue(r *room) {
	in.index.mark(r)
	in.rouse()
}

// rouse has run look at the shards that are marked.
func (in *interest) rouse() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// run reconciles until ctx is done.
func (in *interest) run(ctx context.Context) {
	defer close(in.stopped)
	for {
		var due <-chan time.Time
		if at, some := in.firstDue(); some {
			due = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return
		case <-in.wake:
		case <-due:
		}
		for in.pending() && ctx.Err() == nil {
			wanted, unwanted := in.take()
			in.reconcile(ctx, wanted, unwanted, 0)
			in.retry(ctx)
		}
		in.retry(ctx)
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

// firstDue says when rooms that have failed are tried again.
func (in *interest) firstDue() (at time.Time, some bool) {
	for _, f := range in.failed {
		if !some || f.due.Before(at) {
			at, some = f.due, true
		}
	}
	return at, some
}

// retry tries again, at most once, what has failed and is due.
func (in *interest) retry(ctx context.Context) {
	now := time.Now()
	i := slices.IndexFunc(in.failed, func(f failedRooms) bool { return !f.due.After(now) })
	if i < 0 || ctx.Err() != nil {
		return
	}
	f := in.failed[i]
	in.failed = slices.Delete(in.failed, i, i+1)
	var wanted, unwanted []*room
	for _, r := range f.rooms {
		sh := in.index.shard(r)
		sh.mu.Lock()
		wanted, unwanted = in.sortLocked(sh, r, wanted, unwanted)
		sh.mu.Unlock()
	}
	in.reconcile(ctx, wanted, unwanted, f.pause)
}

// reconcile makes one broker call of each kind. Rooms that fail wait for longer than pause before they
// are tried again.
func (in *interest) reconcile(ctx context.Context, wanted, unwanted []*room, pause time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, interestTimeout)
	defer cancel()
	if len(unwanted) > 0 {
		errs := in.broker.Unsubscribe(ctx, subjects(unwanted)...)
		for _, r := range unwanted {
			in.settle(r, false, nil) // after an error too: nothing of theirs is delivered any more
		}
		in.warn(ctx, "end", errs)
	}
	if len(wanted) > 0 {
		errs := in.broker.Subscribe(ctx, subjects(wanted)...)
		in.settleWanted(wanted, errs, pause)
		in.warn(ctx, "begin", errs)
	}
	in.report()
}

// settleWanted records the answers of one Subscribe.
func (in *interest) settleWanted(wanted []*room, errs []error, pause time.Duration) {
	failed := failedRooms{pause: min(max(interestMinRetry, 2*pause), interestMaxRetry)}
	refused := failedRooms{pause: min(max(interestMinRetry, 2*pause), interestMaxRefused)}
	for i, r := range wanted {
		var err error
		if errs != nil {
			err = errs[i]
		}
		switch again := in.settle(r, err == nil, err); {
		case !again:
		case errors.Is(err, broker.ErrRefused):
			refused.rooms = append(refused.rooms, r)
		default:
			failed.rooms = append(failed.rooms, r)
		}
	}
	for _, f := range [2]failedRooms{failed, refused} {
		if len(f.rooms) > 0 {
			f.due = time.Now().Add(f.pause/2 + rand.N(f.pause))
			in.failed = append(in.failed, f)
		}
	}
}

// warn logs that a call has failed for some rooms, and one reason, now and then.
func (in *interest) warn(ctx context.Context, doing string, errs []error) {
	n, first := 0, error(nil)
	for _, err := range errs {
		if err != nil {
			n++
			first = cmp.Or(first, err)
		}
	}
	if n == 0 || ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) || time.Since(in.warned) < interestWarn {
		return
	}
	in.warned = time.Now()
	in.log.Warn("broker subscriptions are behind", "cannot", doing, "rooms", n, "error", first)
}

// take removes a batch from the queues, and says what has to be done about its rooms. It goes on where
// it stopped, so that no shard waits for others that are always busy.
func (in *interest) take() (wanted, unwanted []*room) {
	left := interestBatch
	for range shardCount {
		word, bit := &in.index.dirty[in.next/64], uint64(1)<<(in.next%64)
		if word.Load()&bit != 0 {
			word.And(^bit) // before looking: a room that comes later sets it again
			sh := &in.index.shards[in.next]
			sh.mu.Lock()
			n := min(len(sh.queue), left)
			for _, r := range sh.queue[:n] {
				wanted, unwanted = in.sortLocked(sh, r, wanted, unwanted)
			}
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

// sortLocked appends a queued room to the list of what has to be done about it, and marks it as busy.
func (in *interest) sortLocked(sh *shard, r *room, wanted, unwanted []*room) (w, u []*room) {
	r.queued = false
	switch want := r.n > 0; {
	case want && !r.subscribed:
		r.busy, r.lost = true, false
		wanted = append(wanted, r)
	case !want && (r.subscribed || r.lost):
		r.busy, r.subscribed, r.lost = true, false, false // a join from now on must wait for the next round
		unwanted = append(unwanted, r)
	case !want:
		in.endGap(r)
		if sh.idleLocked(r) {
			in.index.forgetLocked(sh, r)
		}
		sh.releaseLocked(r, nil)
	}
	return wanted, unwanted
}

// settle records what a broker call has come to for r. It reports whether the caller has to try again
// later; what else has changed meanwhile is queued again.
func (in *interest) settle(r *room, subscribed bool, err error) (again bool) {
	sh := in.index.shard(r)
	sh.mu.Lock()
	r.lost = r.lost && subscribed // meanwhile
	subscribed = subscribed && !r.lost
	r.busy, r.subscribed = false, subscribed
	wanted := r.n > 0
	queued := false
	if again = err != nil && wanted; again {
		r.queued = true
	} else {
		queued = sh.edgeLocked(r)
	}
	if sh.idleLocked(r) {
		in.index.forgetLocked(sh, r)
	}
	switch {
	case subscribed || !wanted:
		sh.releaseLocked(r, nil)
	case errors.Is(err, broker.ErrRefused):
		sh.releaseLocked(r, err)
	}
	sh.mu.Unlock()
	if subscribed || !wanted {
		in.endGap(r)
	}
	if queued {
		in.enqueue(r)
	}
	return again
}

// waiters wait for a room to be subscribed, gone, or refused.
type waiters struct {
	done chan struct{}
	err  error // written before done is closed
}

// releaseLocked lets go all that wait for r.
func (sh *shard) releaseLocked(r *room, err error) {
	if w := sh.waiters[r]; w != nil {
		w.err = err
		close(w.done)
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
