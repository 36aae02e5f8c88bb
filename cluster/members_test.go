package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/internal/deptest"
)

func TestDependsOnTheBrokersPortOnly(t *testing.T) {
	deptest.Only(t, "tether/cluster", "tether/broker", "tether/internal/group", "tether/internal/wire")
}

func TestTheListIsTheSameEverywhereAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a, b, c := r.start(nil, 0), r.start(nil, 0), r.start(nil, 0)
		r.wantMembers([]string{"n000", "n001", "n002"}, a, b, c)

		b.cancel() // a polite end
		<-b.ended
		synctest.Wait()
		r.wantMembers([]string{"n000", "n002"}, a, c)

		c.drain()
		synctest.Wait()
		list, _ := a.Members()
		if !list[1].Draining {
			t.Error("a drain is not on the list at once")
		}
		d := r.start(nil, 0)
		r.wantMembers([]string{"n000", "n002", "n003"}, a, c, d)
		got := list[0]
		want := Member{Tag: "tag-n000", Name: "n000", Version: "v1", Since: got.Since, Connections: 7}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestANodeThatDiesIsOffTheListWithinItsLease(t *testing.T) {
	for name, fail := range map[string]func(*member){
		"killed": (*member).kill,
		"frozen": func(m *member) { m.tap.freeze() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				defer r.stop()
				a, b, c := r.start(nil, 0), r.start(nil, 0), r.start(nil, 0)
				time.Sleep(3 * time.Second)
				fail(c)
				time.Sleep(lease - 1500*time.Millisecond)
				r.wantMembers([]string{"n000", "n001", "n002"}, a, b)
				time.Sleep(6*time.Second - (lease - 1500*time.Millisecond))
				r.wantMembers([]string{"n000", "n001"}, a, b)
				if name == "frozen" {
					_, err := c.Members()
					if !errors.Is(err, ErrStale) {
						t.Errorf("the list of the frozen node: got %v, want ErrStale", err)
					}
					c.tap.thaw()
					time.Sleep(beatInterval + lookInterval)
					r.wantMembers([]string{"n000", "n001", "n002"}, a, b, c)
				}
			})
		})
	}
}

// TestAGuestKnowsOfANodeThatWasFrozenBeforeItCame: it has not heard it, and others have.
func TestAGuestKnowsOfANodeThatWasFrozenBeforeItCame(t *testing.T) {
	for _, before := range []time.Duration{0, 300 * time.Millisecond, time.Second, 3 * time.Second} {
		t.Run(before.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				defer r.stop()
				r.start(says("1"), broker.AtLeast)
				r.start(says("2"), broker.AtLeast)
				time.Sleep(100 * time.Millisecond) // their beats are not at the same time
				c := r.start(says("3"), broker.AtLeast)
				r.subscribe(room, c)
				time.Sleep(3*time.Second + 500*time.Millisecond)
				c.tap.freeze()
				defer c.tap.thaw()
				time.Sleep(before)
				g := r.guest(broker.AtLeast)
				list, err := g.AwaitMembers(t.Context())
				if got := names(list); err != nil || !slices.Equal(got, []string{"n000", "n001", "n002"}) {
					t.Fatalf("the guest knows of %v (%v)", got, err)
				}
				got, took := outcome(g, time.Second, Question{Subject: room})
				want(t, got, took, "n000:1, n001:2, n002 is missing: the node has not answered in time", time.Second)
				time.Sleep(lease)
				r.wantMembers([]string{"n000", "n001"}, g) // nobody has heard more of it
				time.Sleep(lease)
				g.cancel()
				<-g.ended
				late := r.guest(broker.AtLeast)
				if list, err := late.AwaitMembers(t.Context()); err != nil || !slices.Equal(names(list), []string{"n000", "n001"}) {
					t.Errorf("a guest that comes after its lease knows of %v (%v)", names(list), err)
				}
			})
		})
	}
}

func TestNobodysLeaseEndsWhileThisNodeHearsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a, b := r.start(nil, 0), r.start(nil, 0)
		a.tap.dropping(func(broker.Message) bool { return true })
		time.Sleep(time.Hour)
		list, err := a.Members()
		if fmt.Sprint(names(list)) != "[n000 n001]" || !errors.Is(err, ErrStale) {
			t.Errorf("got %v, %v", names(list), err)
		}
		a.tap.dropping(nil)
		time.Sleep(beatInterval + lookInterval)
		r.wantMembers([]string{"n000", "n001"}, a, b)

		// A node that has died meanwhile goes when the lease that began anew has ended.
		a.tap.dropping(func(broker.Message) bool { return true })
		time.Sleep(time.Minute)
		b.kill()
		a.tap.dropping(nil)
		time.Sleep(lease - time.Second)
		r.wantMembers([]string{"n000", "n001"}, a)
		time.Sleep(beatInterval + time.Second + lookInterval)
		r.wantMembers([]string{"n000"}, a)
	})
}

func TestALateBeatRevivesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a, b := r.start(nil, 0), r.start(nil, 0)
		time.Sleep(3 * time.Second)
		late := b.nextBeat(0)
		time.Sleep(2 * time.Second) // others are said meanwhile
		b.kill()
		time.Sleep(6 * time.Second)
		a.Deliver(late[len(head):])
		r.wantMembers([]string{"n000"}, a)

		c := r.start(nil, 0)
		c.cancel()
		<-c.ended
		a.Deliver(c.nextBeat(0)[len(head):]) // on its way when the node said that it ends
		r.wantMembers([]string{"n000"}, a)
	})
}

func TestANewNodeKnowsThatItsListIsNotComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		r.start(nil, broker.AtLeast)
		b := r.start(nil, broker.AtLeast)
		if _, err := b.Members(); !errors.Is(err, ErrIncomplete) {
			t.Errorf("got %v, want ErrIncomplete", err)
		}
		time.Sleep(settleTime)
		r.wantMembers([]string{"n000", "n001"}, b)
		if _, err := New(nil, Options{}).Members(); !errors.Is(err, ErrIncomplete) {
			t.Errorf("of a node that never ran: got %v, want ErrIncomplete", err)
		}
	})
}

func TestChangesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		r.told = true
		a := r.start(nil, 0)
		b := r.start(nil, 0)
		time.Sleep(10 * time.Second) // beats are no changes
		b.drain()
		synctest.Wait()
		b.kill()
		time.Sleep(10 * time.Second)
		a.mu.Lock()
		defer a.mu.Unlock()
		var got []string
		for _, list := range a.changes {
			text := ""
			for _, m := range list {
				text += fmt.Sprint(m.Name, m.Draining, " ")
			}
			got = append(got, text)
		}
		want := []string{"n000false ", "n000false n001false ", "n000false n001true ", "n000false "}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// What a node says and hears in a second. docs/cluster.md has the figures, and what follows for more nodes.
func TestTrafficOfTheListIsOneMessageASecondFromEachNode(t *testing.T) {
	for _, n := range []int{3, 30, 300} {
		if raceDetector && n > 30 {
			continue
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				defer r.stop()
				for range n {
					r.start(nil, 0)
				}
				time.Sleep(1500 * time.Millisecond)
				var sent, received, bytes int64
				read := func() (s, v, b int64) {
					for _, m := range r.nodes {
						s, v, b = s+m.tap.sent.Load(), v+m.tap.received.Load(), b+m.tap.bytes.Load()
					}
					return s, v, b
				}
				sent, received, bytes = read()
				const seconds = 5
				time.Sleep(seconds * time.Second)
				s, v, b := read()
				perNode := func(v int64) float64 { return float64(v) / float64(n) / seconds }
				said, heard, size := perNode(s-sent), perNode(v-received), perNode(b-bytes)
				t.Logf("%d nodes: each says %.1f messages a second and hears %.1f, %.0f bytes", n, said, heard, size)
				if said > 1.3 || heard > 1.3*float64(n) || size > 80*float64(n) { // a beat more may fall into it
					t.Errorf("%d nodes: each says %.2f and hears %.2f messages a second, %.0f bytes", n, said, heard, size)
				}
			})
		})
	}
}

func TestServeSaysWhenTheBrokerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := r.bus.Broker()
		n := New(b, Options{Prefix: "p", Tag: "x"})
		ended := make(chan error)
		go func() { ended <- n.Serve(context.Background(), nil) }()
		time.Sleep(time.Second)
		b.Close()
		if err := <-ended; err == nil {
			t.Error("Serve returned nil")
		}
	})
}
