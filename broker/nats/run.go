package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/beat"
	"tether/broker/internal/dispatch"
)

const (
	// messageQueue is what nats.go has read and pump has not taken: nats.go drops what it finds no
	// place for. It is that large because pump may not get a processor for a while.
	messageQueue = 1 << 15

	watchTick  = 100 * time.Millisecond
	retryBeat  = 50 * time.Millisecond // between beats while none comes back
	silentLook = 3                     // ticks of silence before the connection is cut: a process that
	// was frozen first gets to read what has come meanwhile
)

// run is one Run. Messages and beats go one way, in order:
//
//	nats.go -> in -> pump -> backlog -> feed -> dispatcher -> Handler.Deliver
//
// pump never blocks, so that nats.go never drops; feed waits for Deliver. Marks, of acknowledgements, go
// the same way up to feed.
type run struct {
	b       *Broker
	h       broker.Handler
	subject string // of our beats and marks

	in       chan *natsio.Msg
	backlog  *backlog
	gaps     gaps
	pulse    *beat.Pulse // of what feed has read
	session  *dispatch.Session
	out      *dispatch.Dispatcher
	acks     *acks
	epoch    uint64 // owned by feed; of the last fresh beat, or of the beginning
	awaiting awaiting

	// What is put between the messages:
	replaced *natsio.Msg // what follows is from a new connection
	lost     *natsio.Msg // something may be missing here

	seen  atomic.Int64  // stamp of the last beat that pump has seen: the link is alive
	good  atomic.Uint64 // epoch of the last fresh beat that feed has read
	fresh chan struct{} // capacity 1; wakes watch after a fresh beat
	fatal chan error    // capacity 1
	done  chan struct{} // closed when Run is to end
}

// Run implements [broker.Broker]. It returns an error only if it was called before, or when the
// application closes the connection.
func (b *Broker) Run(ctx context.Context, h broker.Handler) error {
	if h.Deliver == nil {
		return errors.New("nats: run without Deliver")
	}
	b.mu.Lock()
	switch {
	case b.isClosed:
		b.mu.Unlock()
		return broker.ErrClosed
	case b.hasRun:
		b.mu.Unlock()
		return errors.New("nats: run called twice")
	}
	b.hasRun = true
	b.running.Add(1)
	b.mu.Unlock()
	defer b.running.Done()

	done := make(chan struct{})
	r := &run{
		b: b, h: h,
		subject: b.conn.NewInbox(),
		in:      make(chan *natsio.Msg, messageQueue),
		backlog: newBacklog(b.maxPending),
		pulse:   beat.NewPulse(),
		acks:    newAcks(b.conn),
		fresh:   make(chan struct{}, 1),
		fatal:   make(chan error, 1),
		done:    done,

		replaced: new(natsio.Msg),
		lost:     new(natsio.Msg),
	}
	r.session = &dispatch.Session{Pulse: r.pulse, Stale: r.stale, Done: done}
	r.out = dispatch.New(h.Deliver)

	var goroutines sync.WaitGroup
	goroutines.Go(r.pump)
	connections := &follower{r.cut}
	r.epoch = b.link.follow(connections)
	defer b.link.unfollow(connections)
	goroutines.Go(r.feed)
	goroutines.Go(r.beat)
	b.cluster.tell(func(since time.Time, cause error) { r.gaps.open(since, "", cause) })
	close(b.started)
	err := r.watch(ctx)
	b.cluster.tell(nil)
	close(b.stopped)
	close(done)
	goroutines.Wait()
	b.endInterest()
	b.up.Store(false)
	r.out.Close()
	return err
}

// beat subscribes to the beats, sends them, and in between has tend change the subscriptions: both
// need the connection, and neither may block watch.
func (r *run) beat() {
	b := r.b
	err := b.listen()
	var beats *natsio.Subscription
	if err == nil {
		beats, err = b.conn.ChanSubscribe(r.subject, r.in)
	}
	if err != nil {
		r.fatal <- err
		return
	}
	var tending sync.WaitGroup
	tending.Go(func() { b.tend(r.in, r.done) })
	var buf []byte
	for next := time.Duration(0); ; {
		select {
		case <-time.After(next):
		case <-r.done:
			tending.Wait()
			_ = beats.Unsubscribe() // fails only if the connection is closed
			return
		}
		next = beat.Interval
		if !r.b.up.Load() {
			next = retryBeat
		}
		e := b.link.current()
		if !e.ended() {
			buf = r.appendBeat(buf[:0], e.n)
			_ = b.conn.Publish(r.subject, buf) // a beat that is not sent does not come back
			r.greet(e)
		} else if b.conn.IsClosed() {
			r.fatal <- natsio.ErrConnectionClosed
			<-r.done
		}
	}
}

// cut is told of a new connection before anything is read from it; see follower.
func (r *run) cut(uint64) {
	select {
	case r.in <- r.replaced: // pump does not block
	case <-r.done:
	}
}

// greet makes this node known in the cluster, and then looks who is there. Until the first succeeds
// back keeps the gap open.
func (r *run) greet(e epoch) {
	c := r.b.cluster
	if c.join(e, time.Now().Add(timeout), r.done) == nil && c.isClustered() {
		_ = c.look() // there will be another
		c.trim()
	}
}

// appendBeat appends the number of the connection and the stamp of now, in this order of time.
func (r *run) appendBeat(dst []byte, epoch uint64) []byte {
	dst = fmt.Appendf(dst, "%d ", epoch)
	return r.pulse.AppendBeat(dst)
}

// watch tells Handler.State and Handler.Gap, and cuts a silent connection, until ctx or the broker is
// done.
func (r *run) watch(ctx context.Context) error {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	told, silent := false, 0
	for {
		e := r.b.link.current()
		why := r.ill(e)
		up := why == nil
		hasJustBegun := !up && !told && time.Duration(r.pulse.Now()) < beat.Silence
		if (up != r.b.up.Load() || !told) && !hasJustBegun {
			if told && !up {
				r.gaps.open(r.pulse.Time(r.pulse.Last()), "", why)
			}
			told = true
			r.b.up.Store(up)
			r.tell(why)
		}
		r.tellGaps()
		if silent = r.silence(e, silent); silent >= silentLook {
			silent = 0
			r.b.link.cut(e.n, errSilent)
		}
		down := e.down
		if e.ended() {
			down = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.b.closed:
			return nil
		case err := <-r.fatal:
			return r.ended(err)
		case <-down:
		case <-r.fresh:
		case <-tick.C:
		}
	}
}

// ended is the result of a Run whose connection is gone for good.
func (r *run) ended(err error) error {
	if r.b.isDone() {
		return nil
	}
	err = unavailable("run", err)
	if r.b.up.Swap(false) {
		r.tell(err)
	}
	return err
}

var errBehind = errors.New("nats: Deliver is more than two seconds behind")

// ill returns why messages do not make the round trip, or nil.
func (r *run) ill(e epoch) error {
	switch {
	case e.ended():
		return unavailable("run", r.b.linkError())
	case r.pulse.Silent() && time.Duration(int64(r.pulse.Now())-r.seen.Load()) < beat.Silence:
		return errBehind
	case r.pulse.Silent():
		return unavailable("run", errSilent)
	case r.good.Load() != e.n:
		return unavailable("run", errReplaced)
	}
	return nil
}

// silence counts the ticks for which no beat has been seen on a connection that should carry them.
func (r *run) silence(e epoch, before int) int {
	age := min(time.Since(e.since), time.Duration(int64(r.pulse.Now())-r.seen.Load()))
	if e.ended() || age < beat.Silence {
		return 0
	}
	return before + 1
}

func (r *run) tell(err error) {
	if r.h.State != nil {
		r.h.State(err)
	}
}

func (r *run) tellGaps() {
	for _, g := range r.gaps.take() {
		if r.h.Gap != nil {
			r.h.Gap(g)
		}
	}
}
