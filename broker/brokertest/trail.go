package brokertest

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"tether/broker"
)

// sent is one message of a trail.
type sent struct {
	before, after time.Time
	reach         broker.Receipt
	err           error
}

// trail publishes "0", "1", … on a subject, one a millisecond, until stop is closed.
func trail(b broker.Broker, subject string, stop <-chan struct{}) []sent {
	var all []sent
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return all
		case <-tick.C:
		}
		s := sent{before: time.Now()}
		s.reach, s.err = tryPublish(b, subject, strconv.Itoa(len(all)))
		s.after = time.Now()
		all = append(all, s)
	}
}

// leaveTrail starts a trail; the function that it returns ends it.
func leaveTrail(b broker.Broker, subject string) func() []sent {
	stop, result := make(chan struct{}), make(chan []sent)
	go func() { result <- trail(b, subject, stop) }()
	return func() []sent {
		close(stop)
		return <-result
	}
}

// checkTrail checks that what n has of a trail is in order and without duplicates, and that all that
// is missing lies in a gap.
func checkTrail(t *testing.T, n *node, subject string, all []sent) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	have := make(map[int]bool)
	last := -1
	for _, data := range n.got[subject] {
		i, err := strconv.Atoi(data)
		if err != nil {
			continue
		}
		if i <= last {
			t.Errorf("%d arrived after %d", i, last)
		}
		last = i
		have[i] = true
	}
	lost, failed, secret := 0, 0, 0
	for i, s := range all {
		switch {
		case have[i]:
		case s.err != nil:
			failed++
		case inGap(n.gaps, subject, s):
			lost++
		default:
			if secret++; secret == 1 {
				t.Errorf("message %d, published from %v to %v with %+v, is lost and in no gap: %s",
					i, clock(s.before), clock(s.after), s.reach, gapString(n.gaps))
			}
		}
	}
	if secret > 0 {
		t.Errorf("%d messages were lost in secret", secret)
	}
	t.Logf("of %d messages %d arrived, %d were lost in a gap, %d failed; %s", len(all), len(have), lost, failed, gapString(n.gaps))
}

func inGap(gaps []broker.Gap, subject string, s sent) bool {
	for _, g := range gaps {
		covers := g.Subjects == nil
		for _, name := range g.Subjects {
			covers = covers || name == subject
		}
		if covers && !s.after.Before(g.From) && !s.before.After(g.To) {
			return true
		}
	}
	return false
}

func clock(t time.Time) string { return t.Format("05.000") }

func gapString(gaps []broker.Gap) string {
	s := "gaps:"
	for _, g := range gaps {
		s += fmt.Sprintf(" %s to %s (%v)", clock(g.From), clock(g.To), g.Cause)
	}
	return s
}

// checkSince is checkTrail without what was published before the first message that arrived: the
// trail began before its subject was subscribed.
func checkSince(t *testing.T, n *node, subject string, all []sent) {
	t.Helper()
	first := 0
	if got := n.received(subject); len(got) > 0 {
		first, _ = strconv.Atoi(got[0])
	}
	for i := range first {
		all[i].err = errors.ErrUnsupported
	}
	checkTrail(t, n, subject, all)
}
