// Package lane gathers messages that are published at the same time into pipelines, and keeps their
// order.
//
// A message goes to the lane that its subject hashes to. Each lane has one pipeline in flight: what
// comes meanwhile waits, and leaves together in the next one (group commit). So messages of one
// subject never overtake each other, a lone message leaves at once, and under load the batches grow
// to what a round trip gathers.
package lane

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
)

// Options of [New]. The zero value of each field but Send is its default.
type Options struct {
	// Lanes is the number of lanes, 255 at most. Default 4.
	Lanes int

	// MaxMessages and MaxBytes (of subjects and data) bound one pipeline; a larger message goes
	// alone. Defaults 1,024 and 1 MiB.
	MaxMessages, MaxBytes int

	// MaxQueue bounds the messages that wait in one lane. When it is reached Publish waits, with its
	// context. Default 16,384.
	MaxQueue int

	// Timeout is how long Publish goes without a sign of life in any lane, which is an answer or a call
	// of Batch.Alive, before it fails with broker.ErrUnavailable. Default 1.5 s.
	Timeout time.Duration

	// Check refuses a message before it is sent. Nil: none is refused.
	Check func(broker.Message) error

	// Send sends a batch as one pipeline, in order, and returns when the lane's next may leave. It
	// runs on the lane's goroutine, never twice at a time for one lane. It must end, with an error, a
	// Timeout after the backend went silent, and soon after the driver's Close. Messages that it has
	// not answered when it returns fail with its error.
	Send func(lane int, b *Batch) error
}

// Lanes publishes through a driver's Send. Its goroutines live while there is something to send;
// Close and Wait end them.
type Lanes struct {
	o      Options
	seed   maphash.Seed
	lanes  []lane
	closed chan struct{} // closed by Close
	base   time.Time
	moved  atomic.Int64 // when there was a sign of life, in ns since base

	tick    atomic.Pointer[chan struct{}] // closed and replaced by look
	ticking atomic.Bool                   // ticker is set
	ticker  *time.Timer                   // calls look

	calls sync.Pool // of *call

	mu       sync.Mutex
	isClosed bool           // guarded by mu
	workers  sync.WaitGroup // Add under mu, while not closed
}

// New returns lanes that send nothing yet.
func New(o Options) *Lanes {
	setDefault(&o.Lanes, 4)
	o.Lanes = min(o.Lanes, maxLanes)
	setDefault(&o.MaxMessages, 1024)
	setDefault(&o.MaxBytes, 1<<20)
	setDefault(&o.MaxQueue, 16384)
	if o.Timeout <= 0 {
		o.Timeout = 1500 * time.Millisecond
	}
	l := &Lanes{
		o:      o,
		seed:   maphash.MakeSeed(),
		lanes:  make([]lane, o.Lanes),
		closed: make(chan struct{}),
		base:   time.Now(),
	}
	tick := make(chan struct{})
	l.tick.Store(&tick)
	l.ticker = time.AfterFunc(time.Hour, l.look)
	l.ticker.Stop()
	for i := range l.lanes {
		l.lanes[i].index = i
		l.lanes[i].all = l
	}
	return l
}

func setDefault(n *int, to int) {
	if *n <= 0 {
		*n = to
	}
}

// Publish implements [broker.Broker.Publish].
func (l *Lanes) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if l.done() {
		return unknown(len(msgs)), broker.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return unknown(len(msgs)), err
	}
	if len(msgs) == 0 {
		return nil, nil
	}
	c := l.newCall(len(msgs))
	err := l.enqueue(ctx, c, msgs)
	if err == nil {
		err = l.await(ctx, c, c.done)
	}
	if err != nil {
		// Entries of c may still be in flight: c is left to the collector.
		c.cancel()
		reach, _ := c.reaches()
		return reach, err
	}
	reach, err := c.reaches()
	l.calls.Put(c)
	return reach, err
}

func unknown(n int) []broker.Receipt {
	reach := make([]broker.Receipt, n)
	for i := range reach {
		reach[i].Bound = broker.Unknown
	}
	return reach
}

var errStalled = fmt.Errorf("%w: no answer", broker.ErrUnavailable)

// enqueue puts each message into its lane, lane by lane, so that each is locked once.
func (l *Lanes) enqueue(ctx context.Context, c *call, msgs []broker.Message) error {
	if len(msgs) == 1 {
		if err := l.check(msgs[0]); err != nil {
			c.answer(0, broker.Receipt{Bound: broker.Unknown}, err)
			return nil
		}
		return l.lanes[l.laneOf(msgs[0].Subject)].put(ctx, c, msgs, nil)
	}
	of := make([]uint8, len(msgs))
	var used [256]bool
	for i := range msgs {
		if err := l.check(msgs[i]); err != nil {
			of[i] = refused
			c.answer(i, broker.Receipt{Bound: broker.Unknown}, err)
			continue
		}
		of[i] = uint8(l.laneOf(msgs[i].Subject))
		used[of[i]] = true
	}
	for i := range l.lanes {
		if !used[i] {
			continue
		}
		if err := l.lanes[i].put(ctx, c, msgs, of); err != nil {
			return err
		}
	}
	return nil
}

const (
	refused  = 255
	maxLanes = 255
)

func (l *Lanes) check(m broker.Message) error {
	if l.o.Check == nil {
		return nil
	}
	return l.o.Check(m)
}

func (l *Lanes) laneOf(subject string) int {
	return int(maphash.String(l.seed, subject) % uint64(len(l.lanes)))
}

// await waits for a channel of c.
func (l *Lanes) await(ctx context.Context, c *call, until <-chan struct{}) error {
	for {
		tick := *l.tick.Load()
		if l.done() {
			return broker.ErrClosed // and tick may be one that is not closed any more
		}
		if !l.ticking.Load() && l.ticking.CompareAndSwap(false, true) {
			l.ticker.Reset(l.o.Timeout / ticks)
		}
		select {
		case <-until:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
			if time.Since(l.base)-time.Duration(max(l.moved.Load(), c.begun)) >= l.o.Timeout {
				return errStalled
			}
		}
	}
}

// ticks is how often in a Timeout it is looked whether calls stall.
const ticks = 10

// look wakes the calls that wait if there was no sign of life, and Close does. One clock for all of them costs
// less than a timer for each.
func (l *Lanes) look() {
	if !l.done() && time.Since(l.base)-time.Duration(l.moved.Load()) < l.o.Timeout {
		l.ticker.Reset(l.o.Timeout / ticks)
		return
	}
	l.ticking.Store(false) // a call that still waits, or the next, sets the ticker
	next := make(chan struct{})
	close(*l.tick.Swap(&next))
}

// Alive says that the backend answers, and that a message without an answer waits for something else:
// Publish goes on waiting too.
func (l *Lanes) Alive() { l.moved.Store(int64(time.Since(l.base))) }

// Close makes Publish return broker.ErrClosed, also where it is waiting. It does not wait for a Send
// that is running; the driver ends that, and calls Wait.
func (l *Lanes) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isClosed {
		l.isClosed = true
		close(l.closed)
		l.ticker.Stop()
		l.look()
	}
}

func (l *Lanes) done() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Wait returns when no goroutine of a closed Lanes is left.
func (l *Lanes) Wait() { l.workers.Wait() }

// start runs the worker of a lane, and reports false after Close.
func (l *Lanes) start(ln *lane) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return false
	}
	l.workers.Go(ln.work) // Wait waits for it
	return true
}
