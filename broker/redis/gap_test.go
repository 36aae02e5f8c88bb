//go:build unix

package redis_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tether/broker"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

// A node that cannot keep up is cut off by Redis when its output buffer is full. All that it missed
// lies in gaps, and it comes back by itself.
func TestANodeThatRedisCutsOffKnowsWhatItMissed(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--client-output-buffer-limit", "pubsub 1mb 0 0")
	var (
		mu       sync.Mutex
		got      = make(map[string]bool)
		gaps     []broker.Gap
		release  = make(chan struct{})
		gapped   = make(chan struct{}, 100)
		ended    = make(chan error, 1)
		lastSeen = make(chan struct{}, 1)
	)
	b, p := node(t, s.Addr), node(t, s.Addr)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	go func() {
		ended <- b.Run(ctx, broker.Handler{
			Deliver: func(m broker.Message) {
				<-release
				mu.Lock()
				defer mu.Unlock()
				number, _, _ := strings.Cut(string(m.Data), " ")
				got[number] = true
				if number == "last" {
					select {
					case lastSeen <- struct{}{}:
					default: // it is published until one has been seen
					}
				}
			},
			Gap: func(g broker.Gap) {
				mu.Lock()
				defer mu.Unlock()
				gaps = append(gaps, g)
				gapped <- struct{}{}
			},
		})
	}()
	if err := b.Subscribe(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	const many = 3000
	filler := strings.Repeat("x", 10_000)
	before, after := make([]time.Time, many), make([]time.Time, many)
	for i := range many {
		before[i] = time.Now()
		if _, err := p.Publish(ctx, broker.Message{Subject: "s", Data: []byte(strconv.Itoa(i) + " " + filler)}); err != nil {
			t.Fatal(err)
		}
		after[i] = time.Now()
	}
	select {
	case <-gapped:
	case <-ctx.Done():
		t.Fatal("no gap was reported")
	}
	close(release)
	for seen := false; !seen; {
		reach, err := p.Publish(ctx, broker.Message{Subject: "s", Data: []byte("last ")})
		if err != nil {
			t.Fatal(err)
		}
		if reach[0].Nodes == 0 {
			continue
		}
		select {
		case <-lastSeen:
			seen = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	missed := 0
	for i := range many {
		if got[strconv.Itoa(i)] {
			continue
		}
		missed++
		inGap := false
		for _, g := range gaps {
			inGap = inGap || !after[i].Before(g.From) && !before[i].After(g.To)
		}
		if !inGap {
			t.Fatalf("message %d, published from %v to %v, of %v to %v, is missing and in no gap: %v", i, before[i], after[i], before[0], after[many-1], gaps)
		}
	}
	t.Logf("%d of %d messages were missed, in %d gaps", missed, many, len(gaps))
	if missed == 0 {
		t.Error("nothing was missed: the test tests nothing")
	}
}

// A gap that has ended is told also if Run is to end by then.
func TestARunThatEndsTellsOfTheLastGap(t *testing.T) {
	t.Parallel()
	proxy := faultproxy.New(t, backend.Redis(t).Addr)
	b, p := node(t, proxy.Addr()), node(t, proxy.Addr())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, gaps, ended := make(chan string, 10_000), make(chan broker.Gap), make(chan error, 1)
	go func() {
		ended <- b.Run(ctx, broker.Handler{
			Deliver: func(m broker.Message) { got <- string(m.Data) },
			Gap:     func(g broker.Gap) { gaps <- g }, // holds Run up
		})
	}()
	arrives := func(data string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			_, _ = p.Publish(ctx, broker.Message{Subject: "s", Data: []byte(data)}) // fails while it is cut off, too
			for again := time.After(20 * time.Millisecond); again != nil; {
				select {
				case what := <-got:
					if what == data {
						return
					}
				case <-again:
					again = nil
				}
			}
		}
		t.Fatalf("%q does not arrive", data)
	}
	if err := b.Subscribe(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	arrives("at first")
	for _, data := range []string{"after a cut", "after another"} {
		proxy.Cut()
		arrives(data) // in a new session
	}
	cancel()
	told := 0
	for over := false; !over; {
		select {
		case <-gaps:
			told++
		case err := <-ended:
			if over = true; err != nil {
				t.Fatal(err)
			}
		}
	}
	if told != 2 {
		t.Errorf("%d gaps were told, want 2", told)
	}
}

// A process that is stopped for longer than its lease is taken off the receipts, and when it goes on
// it delivers nothing that came after, but reports a gap.
func TestAFrozenProcessIsNotCountedAndWakesToAGap(t *testing.T) {
	long.Alone(t)
	s := backend.Redis(t)
	if s.Kind == backend.StandIn {
		t.Skip("a stand-in cannot drop connections")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childVariable+"="+s.Addr)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGCONT)
	defer stdin.Close()
	lines := bufio.NewScanner(stdout)
	await := func(prefix string) string {
		t.Helper()
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
				return strings.TrimSpace(rest)
			}
		}
		t.Fatalf("the child ended without %q", prefix)
		return ""
	}
	await("subscribed")
	if n := do(t, s.Addr, "ZCARD", "tether:nodes"); n != int64(1) {
		t.Fatalf("the child is subscribed, and there are %v leases", n)
	}
	p := node(t, s.Addr)
	publish := func(data string) broker.Receipt {
		t.Helper()
		reach, err := p.Publish(t.Context(), broker.Message{Subject: "s", Data: []byte(data)})
		if err != nil {
			t.Fatal(err)
		}
		return reach[0]
	}
	if reach := publish("awake"); reach.Nodes != 1 {
		t.Fatalf("awake: %v", reach)
	}
	await("got awake")
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	var counted []time.Time // when messages were published that the frozen node was counted for
	for publish("frozen "+strconv.Itoa(len(counted))).Nodes > 0 {
		counted = append(counted, time.Now())
		if time.Since(frozen) > long.Limit(8*time.Second) {
			t.Fatal("a frozen process is still counted after eight seconds")
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Logf("not counted after %v", time.Since(frozen).Round(time.Millisecond))
	woken := time.Now()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for publish("awake again").Nodes == 0 {
		<-time.After(5 * time.Millisecond)
	}
	var gaps [][2]time.Time
	for again := false; !again || len(gaps) == 0; {
		if !lines.Scan() {
			t.Fatal("the child ended")
		}
		words := strings.Fields(lines.Text())
		switch {
		case words[0] == "gap":
			gaps = append(gaps, [2]time.Time{nanos(t, words[1]), nanos(t, words[2])})
		case strings.HasPrefix(lines.Text(), "got awake again"):
			again = true
		case strings.HasPrefix(lines.Text(), "got frozen"):
			if at := nanos(t, words[3]); at.After(woken) {
				t.Errorf("a message was delivered %v after it was published", at.Sub(frozen))
			} else if i, err := strconv.Atoi(words[2]); err == nil { // the signal was not quick enough
				counted[i] = time.Time{}
			}
		}
	}
	for _, at := range counted {
		if at.IsZero() {
			continue
		}
		if !slices.ContainsFunc(gaps, func(g [2]time.Time) bool { return !at.Before(g[0]) && !at.After(g[1]) }) {
			t.Errorf("a message that was published %v after the freeze is in no gap", at.Sub(frozen))
		}
	}
	stdin.Close()
	if rest := await("ended"); rest != "<nil>" {
		t.Errorf("the child ended with %s", rest)
	}
}

func nanos(t *testing.T, s string) time.Time {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, n)
}
