// Package emit emits numbered messages by a schedule or flat out, with whatever sends them: a hub, a
// bare broker, or raw system calls.
package emit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/clock"
	"tether/bench/internal/hist"
	"tether/bench/internal/mark"
)

// Sender is how messages leave. Payloads are valid only during the call.
type Sender struct {
	// One emits to a user, or to everyone, and returns how many nodes took it, -1 when that is not
	// known. It is called from several goroutines, but for one user from one at a time.
	One func(ctx context.Context, user uint32, payload []byte) (nodes int, err error)

	// Burst emits several payloads to a user. Nil: One for each.
	// The nodes are summed over the payloads.
	Burst func(ctx context.Context, user uint32, payloads [][]byte) (nodes int, err error)

	// Flush is called when a caller has nothing to emit for the moment, and now and then when it is
	// flat out. Nil: One needs no flush.
	Flush func() error
}

// Job is what to emit.
type Job struct {
	Run       uint32        `json:"run"`
	Publisher uint16        `json:"publisher"`
	Everyone  bool          `json:"everyone,omitempty"` // to everyone, and not to one user after the other
	First     uint32        `json:"first,omitempty"`    // number of the first user
	Users     int           `json:"users"`
	Rate      float64       `json:"rate,omitempty"`  // emits a second, or bursts; 0: flat out
	Tick      time.Duration `json:"tick,omitempty"`  // how often the schedule wakes up; 0: 1 ms
	Burst     int           `json:"burst,omitempty"` // messages to a user at a time; 0: 1
	Size      int           `json:"size"`            // bytes of a payload
	Lanes     int           `json:"lanes,omitempty"` // concurrent callers; 0: the one that keeps the schedule
	Start     int64         `json:"start"`           // on the clock; the past means now
	Warm      time.Duration `json:"warm,omitempty"`  // not timed
	Time      time.Duration `json:"time"`            // timed
	Ahead     int           `json:"ahead,omitempty"` // flat out: how many messages may be on their way; 0: any number
}

// Result is what was emitted.
type Result struct {
	Sent    check.Sent        `json:"sent"`
	Window  uint64            `json:"window"`           // messages emitted in the timed part
	Nodes   uint64            `json:"nodes"`            // that took a message, summed over all messages whose receipt says
	Told    uint64            `json:"told"`             // messages whose receipt says
	Errors  map[string]uint64 `json:"errors,omitempty"` // why emits failed
	Call    hist.Hist         `json:"call"`             // paced: from when an emit was due until the call returned; flat out: of the call
	Late    hist.Hist         `json:"late"`             // how late the schedule was, which is this harness's own fault
	Ended   int64             `json:"ended"`
	Stopped bool              `json:"stopped,omitempty"` // before the end of the schedule
}

// Failed is the number of emits that returned an error. They count as sent.
func (r *Result) Failed() (n uint64) {
	for _, k := range r.Errors {
		n += k
	}
	return n
}

// period is how often a schedule wakes up unless the job says otherwise: what is due together is
// emitted together, and its due time is the beginning of the period. The same for every server.
const period = time.Millisecond

const maxErrors = 20 // different ones that are told apart

// Runner runs a job. Its counters may be read while it does.
type Runner struct {
	job    Job
	send   Sender
	warmed int64 // when the timed part begins
	end    int64

	emitted  atomic.Uint64 // messages
	received atomic.Uint64 // messages that the receivers have, as far as we were told
}

// NewRunner checks a job.
func NewRunner(j Job, s Sender) (*Runner, error) {
	j.Burst = max(j.Burst, 1)
	j.Lanes = max(j.Lanes, 1)
	if j.Tick == 0 {
		j.Tick = period
	}
	switch {
	case s.One == nil:
		return nil, errors.New("emit: this process does not emit")
	case j.Users <= 0 || j.Users > 1<<24:
		return nil, fmt.Errorf("emit: %d users", j.Users)
	case j.Rate < 0 || j.Rate > 1e7 || j.Lanes > 4096 || j.Burst > 4096 || j.Size > 1<<20 || j.Tick < 0 || j.Tick > time.Second:
		return nil, errors.New("emit: a number is out of range")
	case j.Warm < 0 || j.Time <= 0 || j.Warm+j.Time > time.Hour:
		return nil, errors.New("emit: the time is out of range")
	case j.Everyone && j.Lanes > 1:
		return nil, errors.New("emit: messages for everyone have one order, so there is one lane")
	}
	j.Lanes = min(j.Lanes, j.Users)
	now := clock.Now()
	j.Start = max(j.Start, now)
	return &Runner{job: j, send: s, warmed: j.Start + int64(j.Warm), end: j.Start + int64(j.Warm+j.Time)}, nil
}

// Emitted is the number of messages so far.
func (r *Runner) Emitted() uint64 { return r.emitted.Load() }

// Received tells how many messages have arrived, for [Job.Ahead].
func (r *Runner) Received(n uint64) { r.received.Store(n) }

// Run emits until the job is done or ctx is, and returns what it did either way.
func (r *Runner) Run(ctx context.Context) *Result {
	lanes := make([]*lane, r.job.Lanes)
	for i := range lanes {
		lanes[i] = r.newLane(i)
	}
	if r.job.Rate > 0 {
		r.pace(ctx, lanes)
	} else {
		r.flatOut(ctx, lanes)
	}
	res := &Result{Sent: check.Sent{Publisher: r.job.Publisher, First: r.job.First, Users: make([]uint64, r.job.Users)}}
	for _, l := range lanes {
		l.addTo(res, len(lanes))
	}
	res.Ended = clock.Now()
	res.Stopped = ctx.Err() != nil
	return res
}

// lane emits to its share of the users, one emit at a time.
type lane struct {
	r        *Runner
	number   int
	users    int // of this lane: the numbers that are number modulo the lanes
	step, at int // the next user is at, the one after it at+step
	seqs     []uint64
	everyone uint64
	payloads [][]byte
	due      chan int64 // when there are several lanes that keep a schedule

	window, nodes, told uint64
	errors              map[string]uint64
	call, late          hist.Hist
}

func (r *Runner) newLane(i int) *lane {
	l := &lane{r: r, number: i, errors: map[string]uint64{}, payloads: make([][]byte, r.job.Burst)}
	l.users = (r.job.Users - i + r.job.Lanes - 1) / r.job.Lanes
	l.seqs = make([]uint64, l.users)
	l.step = stride(l.users)
	return l
}

// stride walks n users so that neighbours in time are not neighbours in number.
func stride(n int) int {
	for s := max(n*618/1000, 1); ; s++ {
		if gcd(s, n) == 1 {
			return s
		}
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (l *lane) addTo(res *Result, lanes int) {
	for i, n := range l.seqs {
		res.Sent.Users[i*lanes+l.number] = n
	}
	res.Sent.Everyone += l.everyone
	res.Window += l.window
	res.Nodes += l.nodes
	res.Told += l.told
	res.Call.Merge(&l.call)
	res.Late.Merge(&l.late)
	for why, n := range l.errors {
		if res.Errors == nil {
			res.Errors = map[string]uint64{}
		}
		res.Errors[why] += n
	}
}

// emit emits one message or one burst that is due at the given time.
func (l *lane) emit(ctx context.Context, due int64) {
	j := &l.r.job
	m := mark.Mark{Run: j.Run, Publisher: j.Publisher, Warm: due < l.r.warmed, At: due, User: mark.Everyone}
	seq := &l.everyone
	if !j.Everyone {
		m.User = j.First + uint32(l.at*j.Lanes+l.number)
		seq = &l.seqs[l.at]
		if l.at += l.step; l.at >= l.users {
			l.at -= l.users
		}
	}
	for i := range l.payloads {
		*seq++
		m.Seq = *seq
		l.payloads[i] = mark.Append(l.payloads[i][:0], m, j.Size)
	}
	if l.r.send.Burst != nil && len(l.payloads) > 1 {
		nodes, err := l.r.send.Burst(ctx, m.User, l.payloads)
		l.took(uint64(len(l.payloads)), nodes, err)
	} else {
		for _, p := range l.payloads {
			nodes, err := l.r.send.One(ctx, m.User, p)
			l.took(1, nodes, err)
		}
	}
	n := uint64(len(l.payloads))
	l.r.emitted.Add(n)
	if now := clock.Now(); !m.Warm && now < l.r.end+int64(j.Tick) {
		l.window += n
		l.call.Add(time.Duration(now - due))
	}
}

// took notes what became of n messages.
func (l *lane) took(n uint64, nodes int, err error) {
	if err != nil {
		why := err.Error()
		if len(l.errors) >= maxErrors {
			why = "others"
		}
		l.errors[why] += max(n, 1)
		return
	}
	if nodes >= 0 {
		l.nodes += uint64(nodes)
		l.told += n
	}
}

func (l *lane) flush() {
	if f := l.r.send.Flush; f != nil {
		if err := f(); err != nil {
			l.took(0, -1, err)
		}
	}
}

// pace emits by the schedule. With one lane this goroutine emits; with several each is a goroutine
// that this one feeds and waits for.
func (r *Runner) pace(ctx context.Context, lanes []*lane) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	clock.Sharpen()
	var all sync.WaitGroup
	if len(lanes) > 1 {
		for _, l := range lanes {
			l.due = make(chan int64, 1024) // full: the schedule waits, and the due times tell
			all.Go(func() {
				for due := range l.due {
					l.emit(ctx, due)
					if len(l.due) == 0 {
						l.flush()
					}
				}
			})
		}
	}
	var n int64 // emits so far
	step := max(r.job.Tick, time.Duration(1e9/r.job.Rate))
	for tick := int64(0); ; tick++ {
		due := r.job.Start + tick*int64(step)
		if due >= r.end || clock.Now() > r.end+int64(5*time.Second) || clock.Sleep(ctx, due) != nil {
			break
		}
		if due >= r.warmed {
			lanes[0].late.Add(time.Duration(clock.Now() - due))
		}
		until := int64(float64(due+int64(step)-r.job.Start) * r.job.Rate / 1e9)
		for ; n < until || step > r.job.Tick && n <= tick; n++ {
			if l := lanes[n%int64(len(lanes))]; l.due == nil {
				l.emit(ctx, due)
			} else {
				l.due <- due
			}
		}
		if len(lanes) == 1 {
			lanes[0].flush()
		}
	}
	for _, l := range lanes {
		if l.due != nil {
			close(l.due)
		}
	}
	all.Wait()
}

// flatOut lets every lane emit as fast as it can. Each is a goroutine that this one waits for.
func (r *Runner) flatOut(ctx context.Context, lanes []*lane) {
	if clock.Sleep(ctx, r.job.Start) != nil {
		return
	}
	var all sync.WaitGroup
	for _, l := range lanes {
		all.Go(func() {
			for n := 1; ; n++ {
				now := clock.Now()
				if now >= r.end || ctx.Err() != nil {
					break
				}
				if r.job.Ahead > 0 && int64(r.emitted.Load()-r.received.Load()) >= int64(r.job.Ahead) {
					l.flush()
					time.Sleep(200 * time.Microsecond)
					continue
				}
				l.emit(ctx, now)
				if n%64 == 0 {
					l.flush()
				}
			}
			l.flush()
		})
	}
	all.Wait()
}
