package redis_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"tether/broker"
)

// load is a node that is subscribed to some subjects, and publishers of another node that publish
// numbers on each of them all the time.
type load struct {
	t        *testing.T
	node     broker.Broker
	from     broker.Broker
	subjects []string

	cancel context.CancelFunc
	ended  chan error    // of Run
	once   sync.Once     // closes stop
	stop   chan struct{} // ends the publishers
	losses chan broker.Gap
	groups sync.WaitGroup

	// detours says that what a server takes as it is demoted may go over the bus of the Cluster, and come
	// late: inside a gap, with a receipt that is unknown.
	detours bool

	mu      sync.Mutex
	got     map[string][]int    // guarded by mu
	sent    map[string][]number // guarded by mu
	gaps    []broker.Gap        // guarded by mu
	states  []stateAt           // guarded by mu
	changed chan struct{}       // guarded by mu
}

// number is one message that was published.
type number struct {
	before, after time.Time
	reach         broker.Receipt
	err           error
}

type stateAt struct {
	at  time.Time
	err error
}

// startLoad subscribes node to n subjects, and has from publish on each every few milliseconds.
func startLoad(t *testing.T, node, from broker.Broker, n int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{
		t: t, node: node, from: from, cancel: cancel, ended: make(chan error, 1), stop: make(chan struct{}),
		losses: make(chan broker.Gap, 1000),
		got:    make(map[string][]int), sent: make(map[string][]number), changed: make(chan struct{}),
	}
	for i := range n {
		l.subjects = append(l.subjects, "user:"+strconv.Itoa(i))
	}
	t.Cleanup(func() { // a test that has failed has not finished
		cancel()
		l.quiet()
	})
	go func() { // ended by finish
		l.ended <- node.Run(ctx, broker.Handler{Deliver: l.deliver, Gap: l.gap, Lost: l.lost, State: l.state})
	}()
	if err := node.Subscribe(ctx, l.subjects...); err != nil {
		t.Fatal(err)
	}
	l.groups.Go(func() { l.restore(ctx) })
	for group := range slices.Chunk(l.subjects, 4) {
		l.groups.Go(func() { l.publish(group) })
	}
	l.await("traffic", func() bool { return len(l.got) == n })
	return l
}

// quiet ends the publishers.
func (l *load) quiet() {
	l.once.Do(func() { close(l.stop) })
	l.groups.Wait()
}

func (l *load) publish(subjects []string) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		for _, s := range subjects {
			n := number{before: time.Now()}
			var reach []broker.Receipt
			reach, n.err = l.from.Publish(context.Background(), broker.Message{Subject: s, Data: []byte(strconv.Itoa(i))})
			n.reach, n.after = reach[0], time.Now()
			l.mu.Lock()
			l.sent[s] = append(l.sent[s], n)
			l.mu.Unlock()
		}
	}
}

func (l *load) deliver(m broker.Message) {
	i, _ := strconv.Atoi(string(m.Data))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got[m.Subject] = append(l.got[m.Subject], i)
	l.changeLocked()
}

func (l *load) gap(g broker.Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gaps = append(l.gaps, g)
	l.changeLocked()
}

func (l *load) lost(g broker.Gap) { l.losses <- g }

// restore subscribes again what is lost, as a hub does.
func (l *load) restore(ctx context.Context) {
	for {
		select {
		case <-l.stop:
			return
		case g := <-l.losses:
			for l.node.Subscribe(ctx, g.Subjects...) != nil && ctx.Err() == nil {
				<-time.After(10 * time.Millisecond)
			}
			g.To = time.Now()
			l.gap(g)
		}
	}
}

func (l *load) state(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states = append(l.states, stateAt{time.Now(), err})
	l.changeLocked()
}

func (l *load) changeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *load) await(what string, ok func() bool) {
	l.t.Helper()
	timeout := time.After(time.Minute)
	for {
		l.mu.Lock()
		done, changed := ok(), l.changed
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.t.Fatalf("waited in vain for %s; gaps %d, states %v", what, len(l.gaps), l.states)
		}
	}
}

// awaitState waits until the node is up, or down.
func (l *load) awaitState(up bool) time.Time {
	l.t.Helper()
	var at time.Time
	l.await(fmt.Sprintf("up = %t", up), func() bool {
		k := len(l.states)
		if k == 0 || (l.states[k-1].err == nil) != up {
			return false
		}
		at = l.states[k-1].at
		return true
	})
	return at
}

// awaitAll waits until a message that is published from now on has arrived on every subject.
func (l *load) awaitAll() {
	l.t.Helper()
	l.mu.Lock()
	begin := make(map[string]int)
	for s, sent := range l.sent {
		begin[s] = len(sent)
	}
	l.mu.Unlock()
	l.await("every subject", func() bool {
		for s, n := range begin {
			if got := l.got[s]; len(got) == 0 || got[len(got)-1] <= n {
				return false
			}
		}
		return true
	})
}

// finish ends the load and checks that nothing was doubled, that the order held, and that what is
// missing lies in gaps. It returns how many messages were lost.
func (l *load) finish() (lost int) {
	t := l.t
	t.Helper()
	l.awaitAll()
	l.quiet()
	for _, s := range l.subjects {
		last := len(l.sent[s]) - 1
		if l.sent[s][last].err == nil && l.sent[s][last].reach.Nodes > 0 {
			l.await("the last message", func() bool {
				got := l.got[s]
				return got[len(got)-1] == last || l.detours && slices.Contains(got, last) // others may come behind it
			})
		}
	}
	l.cancel()
	if err := <-l.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	total, failed, secret, nobody, late := 0, 0, 0, 0, 0
	for _, s := range l.subjects {
		have := make(map[int]bool)
		last := -1
		for _, i := range l.got[s] {
			if have[i] {
				t.Errorf("%s: %d arrived twice", s, i)
			} else if n := l.sent[s][i]; i <= last && l.detours && n.reach.Bound == broker.Unknown && l.inGap(s, n) {
				late++
			} else if i <= last {
				t.Errorf("%s: %d arrived after %d", s, i, last)
			}
			have[i], last = true, max(last, i)
		}
		for i, n := range l.sent[s] {
			total++
			switch {
			case have[i]:
			case n.err != nil:
				failed++
			case l.inGap(s, n):
				if lost++; n.reach.Nobody() {
					nobody++
				}
			default:
				if secret++; secret <= 3 {
					t.Errorf("%s: %d, published at %s with %+v, is lost and in no gap: %s", s, i, n.before.Format("05.000"), n.reach, l.gapString())
				}
			}
		}
	}
	if secret > 0 {
		t.Errorf("%d messages were lost in secret", secret)
	}
	t.Logf("of %d messages %d were lost in gaps (%d of them with a receipt of 0), %d came late in one, %d failed; %s", total, lost, nobody, late, failed, l.gapString())
	return lost
}

func (l *load) inGap(subject string, n number) bool {
	return slices.ContainsFunc(l.gaps, func(g broker.Gap) bool {
		return (g.Subjects == nil || slices.Contains(g.Subjects, subject)) && !n.after.Before(g.From) && !n.before.After(g.To)
	})
}

func (l *load) gapString() string {
	s := fmt.Sprintf("%d gaps:", len(l.gaps))
	for _, g := range l.gaps[:min(len(l.gaps), 8)] {
		s += fmt.Sprintf(" %s+%v on %d (%v)", g.From.Format("05.000"), g.To.Sub(g.From).Round(time.Millisecond), len(g.Subjects), g.Cause)
	}
	return s
}
