package emit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/mark"
)

// recorder is a sender that checks what it is given as a receiver would.
type recorder struct {
	mu        sync.Mutex
	receivers map[uint32]*check.Receiver
	counts    check.Counts
	timed     uint64
	bad       int
}

func (r *recorder) one(_ context.Context, user uint32, payload []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := mark.Parse(payload)
	if !ok || m.User != user || len(payload) != 64 {
		r.bad++
		return 0, errors.New("bad payload")
	}
	if r.receivers[user] == nil {
		c := check.NewReceiver(m.Run, user)
		r.receivers[user] = &c
	}
	r.receivers[user].Take(m, &r.counts)
	if !m.Warm {
		r.timed++
	}
	return 1, nil
}

func TestWhatAJobSaysItSentIsWhatLeft(t *testing.T) {
	base := Job{Run: 7, Publisher: 2, First: 10, Users: 37, Size: 64, Warm: 20 * time.Millisecond, Time: 60 * time.Millisecond}
	tests := map[string]func(*Job){
		"paced":             func(j *Job) { j.Rate = 5000 },
		"paced, slowly":     func(j *Job) { j.Rate = 100 },
		"paced, in lanes":   func(j *Job) { j.Rate, j.Lanes = 5000, 8 },
		"flat out":          func(j *Job) {},
		"flat out in lanes": func(j *Job) { j.Lanes = 5 },
		"bursts":            func(j *Job) { j.Rate, j.Burst = 500, 16 },
		"to everyone":       func(j *Job) { j.Rate, j.Everyone = 500, true },
		"more lanes":        func(j *Job) { j.Rate, j.Lanes = 2000, 99 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			j := base
			change(&j)
			rec := &recorder{receivers: map[uint32]*check.Receiver{}}
			r, err := NewRunner(j, Sender{One: rec.one})
			if err != nil {
				t.Fatal(err)
			}
			res := r.Run(t.Context())
			for _, c := range rec.receivers {
				c.Settle([]check.Sent{res.Sent}, true, &rec.counts)
			}
			if rec.bad > 0 || rec.counts.Faults() > 0 || len(res.Errors) > 0 || res.Stopped {
				t.Errorf("bad %d, %+v, errors %v, stopped %v", rec.bad, rec.counts, res.Errors, res.Stopped)
			}
			total := res.Sent.Total() + res.Sent.Everyone
			if total == 0 || total != r.Emitted() || total != res.Told || total != res.Nodes {
				t.Errorf("sent %d, emitted %d, told %d, nodes %d", total, r.Emitted(), res.Told, res.Nodes)
			}
			if j.Rate > 0 { // the schedule is exact, however late it is kept
				want := uint64(j.Rate*float64(j.Warm+j.Time)/1e9) * uint64(max(j.Burst, 1))
				if total != want {
					t.Errorf("sent %d, want %d", total, want)
				}
			}
		})
	}
}

func TestAnEmitterDoesNotRunFurtherAheadThanItMay(t *testing.T) {
	rec := &recorder{receivers: map[uint32]*check.Receiver{}}
	r, err := NewRunner(Job{Users: 5, Size: 64, Time: 2 * time.Second, Ahead: 40}, Sender{One: rec.one})
	if err != nil {
		t.Fatal(err)
	}
	res := r.Run(t.Context())
	if got := res.Sent.Total(); got != 40 {
		t.Errorf("sent %d with nothing received, want 40", got)
	}
}

func TestACancelledJobReportsWhatItDid(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var n int
	r, err := NewRunner(Job{Users: 5, Size: 64, Rate: 1000, Time: time.Minute}, Sender{One: func(context.Context, uint32, []byte) (int, error) {
		if n++; n == 10 {
			cancel()
		}
		return -1, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	res := r.Run(ctx)
	if !res.Stopped || res.Sent.Total() != 10 || res.Told != 0 {
		t.Errorf("stopped %v, sent %d, told %d; want true, 10, 0", res.Stopped, res.Sent.Total(), res.Told)
	}
}

func TestSenselessJobsAreRefused(t *testing.T) {
	s := Sender{One: func(context.Context, uint32, []byte) (int, error) { return 0, nil }}
	for _, j := range []Job{{}, {Users: 1}, {Users: 1, Time: 2 * time.Hour}, {Users: -1, Time: 1}, {Users: 1, Time: 1, Rate: -1}, {Users: 9, Time: 1, Everyone: true, Lanes: 2}} {
		if _, err := NewRunner(j, s); err == nil {
			t.Errorf("NewRunner(%+v) accepts it", j)
		}
	}
}
