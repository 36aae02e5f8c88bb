package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/beat"
)

const (
	watchTick  = 100 * time.Millisecond
	retryBeat  = 50 * time.Millisecond // between beats while none comes back
	silentLook = 3                     // ticks of silence before the connection is cut: a process that
	// was frozen first gets to read what has come meanwhile

	// leaveTimeout is how long Run waits at its end for the server to confirm that nothing is subscribed.
	leaveTimeout = 500 * time.Millisecond

	// lastSure is how long before the server's word a subscription that it has ended is known to be good.
	lastSure = 2 * beat.Interval
)

var (
	errOverflow = errors.New("nats: too many messages wait for Deliver")
	errStale    = errors.New("nats: messages came too late")
	errCut      = errors.New("nats: the connection was replaced")
)

// run is one Run. Messages and beats go one way, in order: nats.go, read, a worker, Handler.Deliver.
type run struct {
	b       *Broker
	h       broker.Handler
	gaps    gaps
	pulse   *beat.Pulse // of what has been read
	workers *workers
	good    atomic.Uint64 // epoch of the last beat that came back to a connection in order
	fresh   chan struct{} // capacity 1; wakes watch after such a beat, and when something was lost
	fatal   chan error    // capacity 1
	done    chan struct{} // closed when Run is to end

	// Owned by read.
	acks     *acks
	epoch    uint64     // of the last beat, or of the beginning
	place    uint64     // of the last message that has one
	last     beat.Stamp // of the last good moment, when the burst began
	isTimely bool       // what is read now is not too old to be counted
}

// Run implements [broker.Broker]. It returns an error only if it was called before, or when the
// application closes the connection.
func (b *Broker) Run(ctx context.Context, h broker.Handler) error {
	if h.Deliver == nil {
		return errors.New("nats: run without Deliver")
	}
	if !b.work.Begin() {
		return broker.ErrClosed
	}
	defer b.work.End()
	if b.hasRun.Swap(true) {
		return errors.New("nats: run called twice")
	}
	r := &run{
		b: b, h: h,
		pulse: beat.NewPulse(),
		acks:  newAcks(b.conn),
		epoch: b.link.current().n,
		fresh: make(chan struct{}, 1),
		fatal: make(chan error, 1),
		done:  make(chan struct{}),
	}
	most := maxWorkers
	if b.kept != nil {
		most = 1
	}
	r.workers = newWorkers(h.Deliver, b.maxPending, most, r.done)
	b.run.Store(r)
	b.cluster.tell(func(since time.Time, cause error) { r.gaps.open(since, "", cause) })
	var beating sync.WaitGroup
	beating.Go(r.beat)
	close(b.started)
	err := r.watch(ctx)
	b.cluster.tell(nil)
	close(b.stopped)
	close(r.done)
	beating.Wait()
	b.run.Store(nil)
	b.endRooms()
	b.up.Store(false)
	r.workers.wait()
	return err
}

// endRooms ends every subscription at the end of Run. On a connection that works it waits for the server, so
// that those that publish after Run hear at once that nobody is there.
func (b *Broker) endRooms() {
	subs := b.rooms.end()
	if b.owned && b.isDone() && !b.up.Load() {
		return // the connection goes too
	}
	for _, sub := range subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	if e := b.link.current(); b.up.Load() && b.conn.FlushTimeout(leaveTimeout) == nil {
		_ = b.cluster.confirm(context.Background(), e, leaveTimeout) // else the others will find out
	}
}

// beat sends the beats, and in between looks for others: both need the connection, and neither may block
// watch.
func (r *run) beat() {
	b := r.b
	var buf []byte
	for next := time.Duration(0); ; {
		select {
		case <-time.After(next):
		case <-r.done:
			return
		}
		next = beat.Interval
		if !b.up.Load() {
			next = retryBeat
		}
		e := b.link.current()
		switch {
		case !e.ended():
			buf = r.pulse.AppendBeat(fmt.Appendf(buf[:0], "%d ", e.n))
			_ = b.conn.Publish(b.inbox+beatTail, buf) // a beat that is not sent does not come back
			if b.cluster.isJoined() {
				_ = b.cluster.look() // there will be another
				b.cluster.trim()
			}
		case b.conn.IsClosed():
			r.fatal <- natsio.ErrConnectionClosed
			<-r.done
			return
		}
	}
}

// begin begins a burst.
func (r *run) begin() {
	r.last = r.pulse.Last()
	r.isTimely = r.pulse.Fresh(r.last)
}

// end ends a burst: what was taken is acknowledged, and handed to the workers.
func (r *run) end() {
	r.acks.flush()
	r.workers.flush()
}

// miss says that something was missed, on a subject or on any.
func (r *run) miss(subject string, cause error) {
	r.gaps.open(r.pulse.Time(r.pulse.Last()), subject, cause)
}

// take takes a message for a room. What is not acknowledged is not delivered either. Within a cluster the messages
// of a publisher come in order, unless a server dies: then some may come once more, or late, from where it had
// passed them on to.
func (r *run) take(m *natsio.Msg) {
	room := r.b.rooms.of(m)
	switch {
	case room == nil:
	case strings.HasSuffix(m.Reply, "."+questionTail):
		if m.Reply == r.b.question {
			room.heard.Store(true)
		}
	case isProbe(m.Reply):
	case !r.isTimely:
		r.miss("", errStale)
	case r.b.kept != nil && m.Header[headerSequence] != nil:
		place, reply, data, ok := r.b.kept.taken(m)
		inOrder := place > r.place
		if ok {
			r.place = place // also if it is not in order: it may be the one before that was forged
		}
		if !ok || !inOrder {
			r.b.kept.doubt()
			r.miss("", errGeneration)
			return
		}
		r.takeFor(room, place, m.Subject, reply, data)
	default:
		r.takeFor(room, 0, m.Subject, m.Reply, m.Data)
	}
}

// takeFor is take for what a room gets. What has a place is in order, and comes once. It may come behind a later message of
// its publisher that has none: the stream has stored it after its publisher had given it up.
func (r *run) takeFor(room *room, place uint64, wire, reply string, data []byte) {
	publisher, n := r.acks.of(reply)
	if place == 0 && publisher != nil && n <= publisher.newest && !r.b.cluster.foreign.Load() {
		return
	}
	if r.b.names.isHash(wire) {
		subject, named, err := splitNamed(data)
		if err != nil || string(subject) != room.subject {
			return
		}
		data = named
	}
	if !r.workers.put(room, place, data) {
		r.miss(room.subject, errOverflow)
		return
	}
	r.acks.add(publisher, n)
}

// back takes a beat that has come round. If it is fresh, and from the connection that there is now, and that
// is in order, everything that is published from now on will be read: gaps end.
func (r *run) back(data []byte) {
	digits, stamp, _ := bytes.Cut(data, []byte(" "))
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil || n != r.b.link.current().n {
		return // not ours, or of a connection that is gone
	}
	last := r.pulse.Last()
	if !r.pulse.Back(stamp) || r.pulse.Silent() {
		return
	}
	if n != r.epoch {
		r.epoch = n
		r.gaps.open(r.pulse.Time(last), "", errCut)
	}
	if r.b.cluster.joined.Load() != n {
		return // the server may have refused something, or other servers not know of it yet
	}
	r.begin()
	r.gaps.end(r.pulse.Time(r.pulse.Now()))
	r.good.Store(n)
	signal(r.fresh)
}

// lose tells of subscriptions that the server has ended.
func (r *run) lose(g broker.Gap) {
	r.gaps.lose(g, r.pulse.Time(r.pulse.Last()).Add(-lastSure))
	signal(r.fresh)
}

// watch tells Handler.State, Handler.Gap and Handler.Lost, and cuts a silent connection, until ctx or the
// broker is done.
func (r *run) watch(ctx context.Context) error {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	told, silent := false, 0
	for {
		e := r.b.link.current()
		why := r.ill(e)
		up := why == nil
		r.tellLost() // before State says that all is well again
		hasJustBegun := !up && !told && time.Duration(r.pulse.Now()) < beat.Silence
		if (up != r.b.up.Load() || !told) && !hasJustBegun {
			if told && !up {
				r.miss("", why)
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
			r.tellRest()
			return nil
		case <-r.b.closed:
			r.tellRest()
			return nil
		case err := <-r.fatal:
			r.tellRest()
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

// ill returns why messages do not make the round trip, or nil.
func (r *run) ill(e epoch) error {
	joined := r.b.cluster.joined.Load() == e.n
	switch {
	case e.ended():
		return unavailable("run", r.b.link.why())
	case r.pulse.Silent():
		return unavailable("run", errSilent)
	case !joined || r.good.Load() != e.n:
		if err := r.b.kept.reason(); err != nil {
			return unavailable("run", err)
		}
		if err := r.b.refusal(nil); err != nil {
			return unavailable("run", err)
		}
		return unavailable("run", errReplaced)
	}
	return nil
}

// silence counts the ticks for which no beat has been read on a connection that should carry them.
func (r *run) silence(e epoch, before int) int {
	age := min(time.Since(e.since), time.Duration(r.pulse.Now()-r.pulse.Last()))
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

// tellRest tells what has become known since the last look.
func (r *run) tellRest() {
	r.tellLost()
	r.tellGaps()
}

func (r *run) tellLost() {
	for _, g := range r.gaps.takeLost() {
		if r.h.Lost != nil {
			r.h.Lost(g)
		}
	}
}

func (r *run) tellGaps() {
	for _, g := range r.gaps.take() {
		if r.h.Gap != nil {
			r.h.Gap(g)
		}
	}
}
