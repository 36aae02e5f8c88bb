package revoke_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/cluster"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/simbroker"
	"tether/revoke"
)

func TestARevokedUserIsOutOnAllNodesAndStaysOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.node("a", revoke.Options{}), r.node("b", revoke.Options{})
		phone, laptop, other := a.Connect(auth{User: "42"}), b.Connect(auth{User: "42"}), b.Connect(auth{User: "43"})
		c := r.revoke(a, revoke.Rule{User: hub.User("42")}, 2, 2, 0)
		if c.Nodes[0].Name != "a" || c.Nodes[1].Name != "b" || c.Nodes[0].Tag == c.Nodes[1].Tag {
			t.Errorf("got nodes %v", c.Nodes)
		}
		phone.ExpectEnd(hub.ReasonServerDisconnect)
		laptop.ExpectEnd(hub.ReasonServerDisconnect)
		for _, n := range []*hubtest.Node{a, b} {
			n.ExpectRefusal(auth{User: "42", Issued: time.Now().Unix() + 60}, refused)
			n.Connect(auth{User: "43"})
		}
		if got, err := a.Hub.Emitter().Emit(t.Context(), hub.User("43"), "still", 1); err != nil || got.Nodes != 2 {
			t.Errorf("the other user: %v, %v", got, err)
		}
		other.Expect("still", 1)
	})
}

func TestATokenIsRevokedAloneAndATimeForAllThatWereIssuedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.node("a", revoke.Options{}), r.node("b", revoke.Options{})
		now := time.Now().Truncate(time.Second)
		old, young := now.Unix()-100, now.Unix()-50
		stolen, good := a.Connect(auth{User: "42", ID: "x"}), b.Connect(auth{User: "42", ID: "y"})
		r.revoke(b, revoke.Rule{Token: "x"}, 1, 2, 0)
		stolen.ExpectEnd(hub.ReasonServerDisconnect)
		b.ExpectRefusal(auth{User: "42", ID: "x"}, refused)
		b.ExpectRefusal(auth{User: "43", ID: "x"}, refused)
		good.RefuteAny()

		first, second := a.Connect(auth{User: "7", Issued: old}), b.Connect(auth{User: "7", Issued: young})
		r.revoke(a, revoke.Rule{User: hub.User("7"), Before: time.Unix(young, 0)}, 1, 2, 0)
		first.ExpectEnd(hub.ReasonServerDisconnect)
		b.ExpectRefusal(auth{User: "7", Issued: old}, refused)
		b.ExpectRefusal(auth{User: "7"}, refused) // nobody knows when it was issued
		r.revoke(a, revoke.Rule{User: hub.User("7"), Before: time.Unix(old, 0)}, 0, 2, 0)
		b.ExpectRefusal(auth{User: "7", Issued: old + 1}, refused) // the later time counts

		fresh := a.Connect(auth{User: "8", Issued: now.Unix()})
		r.revoke(b, revoke.Rule{Before: now}, 2, 2, 0) // of good, and of second
		second.ExpectEnd(hub.ReasonServerDisconnect)
		good.ExpectEnd(hub.ReasonServerDisconnect)
		a.ExpectRefusal(auth{ID: "of nobody"}, refused)
		fresh.RefuteAny()
	})
}

func TestASocketWithSeveralTokensEndsWithAnyOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.node("a", revoke.Options{})
		first, second := a.Connect(auth{User: "1", Another: "2"}), a.Connect(auth{User: "3", Another: "4"})
		r.revoke(a, revoke.Rule{User: hub.User("1")}, 1, 1, 0)
		r.revoke(a, revoke.Rule{User: hub.User("4")}, 1, 1, 0)
		first.ExpectEnd(hub.ReasonServerDisconnect)
		second.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

// TestAConnectInFlightDoesNotSlipThrough: wherever its hook is when the rule comes.
func TestAConnectInFlightDoesNotSlipThrough(t *testing.T) {
	for _, in := range []auth{{User: "42", Pause: time.Second}, {User: "42", Linger: time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			a, b := r.node("a", revoke.Options{}), r.node("b", revoke.Options{})
			var wg sync.WaitGroup
			wg.Go(func() {
				time.Sleep(time.Second / 2)
				ended := 0
				if in.Linger > 0 {
					ended = 1
				}
				r.revoke(b, revoke.Rule{User: hub.User("42")}, ended, 2, 0)
			})
			message := refused
			if in.Linger > 0 {
				message = "disconnected"
			}
			a.ExpectRefusal(in, message)
			wg.Wait()
		})
	}
}

// TestANodeThatStartsLaterKnows: from any node that lives, also if the one that was asked first is gone.
func TestANodeThatStartsLaterKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.node("a", revoke.Options{})
		r.revoke(a, revoke.Rule{User: hub.User("42")}, 0, 1, 0)
		b := r.node("b", revoke.Options{})
		b.ExpectRefusal(auth{User: "42"}, refused)
		a.Kill()
		c := r.node("c", revoke.Options{})
		c.ExpectRefusal(auth{User: "42"}, refused)
		b.Drain()
		d := r.node("d", revoke.Options{})
		d.ExpectRefusal(auth{User: "42"}, refused)
		d.Connect(auth{User: "43"})
	})
}

// TestNodesThatStartWhileRulesAreMade all know all of them.
func TestNodesThatStartWhileRulesAreMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		first := r.node("first", revoke.Options{})
		list := r.lists[first]
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 37 * time.Millisecond)
				if c, err := list.Revoke(t.Context(), revoke.Rule{User: hub.User(fmt.Sprint(i))}); err != nil || len(c.Missing) > 0 {
					t.Errorf("got %+v, %v", c, err)
				}
			})
		}
		nodes := []*hubtest.Node{first}
		for i := range 5 {
			nodes = append(nodes, r.node(fmt.Sprint("node-", i), revoke.Options{}))
			time.Sleep(301 * time.Millisecond)
		}
		wg.Wait()
		for _, n := range nodes {
			for i := range 40 {
				n.ExpectRefusal(auth{User: fmt.Sprint(i)}, refused)
			}
			n.Connect(auth{User: "good"})
		}
	})
}

func TestANodeThatWasCutOffIsNamedAndCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.node("a", revoke.Options{}), r.node("b", revoke.Options{})
		there := b.Connect(auth{ID: "x"})
		b.Silence()
		began := time.Now()
		c := r.revoke(a, revoke.Rule{Token: "x"}, 0, 1, 1)
		if took := time.Since(began); took > 6*time.Second || c.Missing[0].Node.Name != "b" || !errors.Is(c.Missing[0].Why, cluster.ErrGone) {
			t.Errorf("got %+v after %v", c, took)
		}
		b.Heal()
		there.ExpectEnd(hub.ReasonServerDisconnect)
		b.ExpectRefusal(auth{ID: "x"}, refused)

		b.Silence() // what it revokes meanwhile, the others learn when it is back
		if c, err := r.lists[b].Revoke(t.Context(), revoke.Rule{Token: "y"}); err != nil && len(c.Nodes) != 1 {
			t.Errorf("got %+v, %v", c, err)
		}
		b.Heal()
		time.Sleep(3 * time.Second)
		a.ExpectRefusal(auth{ID: "y"}, refused)
	})
}

// TestANodeThatLivesLearnsOfARuleThatItHasNotHeard: it was named as one that may not have it.
func TestANodeThatLivesLearnsOfARuleThatItHasNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var deaf atomic.Bool
		a := r.node("a", revoke.Options{})
		b := r.nodeOn("b", revoke.Options{}, func(m broker.Message) bool {
			return !deaf.Load() || !bytes.Contains(m.Data, []byte(`{"rule":`))
		})
		there := b.Connect(auth{ID: "x"})
		deaf.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := r.lists[a].Revoke(ctx, revoke.Rule{Token: "x"})
		r.compare(c, err, 0, 1, 1)
		if why := c.Missing[0].Why; !errors.Is(why, cluster.ErrLate) {
			t.Errorf("b is missing because of %v", why)
		}
		began := time.Now()
		there.ExpectEnd(hub.ReasonServerDisconnect)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		b.ExpectRefusal(auth{ID: "x"}, refused)
	})
}

// TestANodeWaitsUntilTheOthersKnowIt: rules that come before that do not go to it.
func TestANodeWaitsUntilTheOthersKnowIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var deaf atomic.Bool
		deaf.Store(true)
		r.nodeOn("a", revoke.Options{}, func(m broker.Message) bool {
			return !deaf.Load() || !bytes.Contains(m.Data, []byte("stranger"))
		})
		b := r.node("stranger", revoke.Options{})
		time.Sleep(3 * time.Second)
		if r.lists[b].Ready() == nil {
			t.Error("it lets clients in, and the other node does not know it")
		}
		deaf.Store(false)
		b.Connect(auth{User: "42"})
	})
}

// TestANodeThatOnlyOthersKnowIsAsked: all are asked again when one has named it.
func TestANodeThatOnlyOthersKnowIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.node("a", revoke.Options{})
		var asked atomic.Int32
		r.cluster.Node(func(b broker.Broker) (*hub.Hub, error) {
			h, err := hub.New(b, hub.Options{Node: "b"})
			if err != nil {
				return nil, err
			}
			h.Emitter().Cluster().Handle(64, func(ctx context.Context, q *cluster.Request) error { // the topic of rules
				if asked.Add(1) == 1 {
					return q.Send(ctx, []byte(`{"sockets":0,"others":[{"tag":"12345678","name":"c"}]}`))
				}
				return q.Send(ctx, []byte(`{"sockets":0}`))
			})
			return h, nil
		})
		r.revoke(a, revoke.Rule{Token: "x"}, 0, 2, 0)
		if asked.Load() != 2 {
			t.Errorf("it asks %d times", asked.Load())
		}
	})
}

// TestANodeWhoseRulesCannotBeReadIsAskedAgain: until then it is not known whether there are others. The log says once that it
// begins, and once that it ends, with an answer that can be read or with the node.
func TestANodeWhoseRulesCannotBeReadIsAskedAgain(t *testing.T) {
	for _, dies := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			var plain atomic.Bool
			a := r.cluster.Node(func(b broker.Broker) (*hub.Hub, error) {
				h, err := hub.New(b, hub.Options{Node: "a"})
				if err != nil {
					return nil, err
				}
				h.Emitter().Cluster().Handle(65, func(ctx context.Context, q *cluster.Request) error { // what it knows
					if plain.Load() {
						return q.Send(ctx, []byte(`{"knows":true,"digest":"0"}`))
					}
					return q.Send(ctx, []byte(`{"knows":true`))
				})
				return h, nil
			})
			var log bytes.Buffer // one goroutine writes: that of Run
			b := r.node("b", revoke.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			time.Sleep(5 * time.Second)
			if r.lists[b].Ready() == nil {
				t.Error("it lets clients in, and has not read what the other node knows")
			}
			wantLog(t, &log, "level=WARN")
			if dies {
				a.Kill()
			} else {
				plain.Store(true)
			}
			time.Sleep(10 * time.Second)
			if err := r.lists[b].Ready(); err != nil {
				t.Error(err)
			}
			wantLog(t, &log, "level=WARN", "level=INFO")
		})
	}
}

// wantLog checks that a log has these lines about node a, and no others.
func wantLog(t *testing.T, log *bytes.Buffer, want ...string) {
	t.Helper()
	synctest.Wait()
	lines := strings.SplitAfter(strings.TrimSuffix(log.String(), "\n"), "\n")
	ok := len(lines) == len(want)
	for i := range want {
		ok = ok && strings.Contains(lines[i], want[i]) && strings.Contains(lines[i], "the rules of another node") && strings.Contains(lines[i], "of=a")
	}
	if !ok {
		t.Errorf("got the log\n%s\nwant %v", log.String(), want)
	}
}

func TestAProcessWithoutAHubRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, _ := r.node("a", revoke.Options{}), r.node("b", revoke.Options{})
		phone := a.Connect(auth{User: "42"})
		e := hub.NewEmitter(r.cluster.Broker(), hub.EmitterOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		up, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- e.Run(ctx, func() { close(up) }) }() // waited for below
		<-up
		c, err := revoke.Everywhere(t.Context(), e.In("/elsewhere"), revoke.Rule{User: hub.User("42")})
		r.compare(c, err, 1, 2, 0)
		phone.ExpectEnd(hub.ReasonServerDisconnect)
		if _, err := revoke.Everywhere(t.Context(), e, revoke.Rule{}); !errors.Is(err, revoke.ErrRule) {
			t.Errorf("an empty rule: %v", err)
		}
		for _, before := range []time.Time{time.Now().Add(time.Minute + 1), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(-1, 0), time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)} {
			if _, err := revoke.Everywhere(t.Context(), e, revoke.Rule{Before: before}); !errors.Is(err, revoke.ErrBefore) {
				t.Errorf("a rule about what was issued before %v: %v", before, err)
			}
		}
		if _, err := revoke.Everywhere(t.Context(), e, revoke.Rule{User: hub.User("43"), Before: time.Now().Add(time.Minute)}); err != nil {
			t.Errorf("a rule of a clock that is ahead: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := revoke.Everywhere(t.Context(), e, revoke.Rule{Token: "x"}); !errors.Is(err, hub.ErrNotRunning) {
			t.Errorf("without Run: %v", err)
		}
	})
}

func TestARuleIsForgottenWhenItsTokensHaveExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.node("a", revoke.Options{Lifetime: time.Hour, Max: 1})
		r.revoke(a, revoke.Rule{User: hub.User("42")}, 0, 1, 0)
		time.Sleep(59 * time.Minute)
		a.ExpectRefusal(auth{User: "42"}, refused)
		here := a.Connect(auth{User: "43"})
		c := r.revoke(a, revoke.Rule{User: hub.User("43")}, 1, 0, 1)
		if !errors.Is(c.Missing[0].Why, revoke.ErrFull) {
			t.Errorf("got %+v", c)
		}
		here.ExpectEnd(hub.ReasonServerDisconnect)
		a.Connect(auth{User: "43"}) // as was said
		time.Sleep(2 * time.Minute)
		r.revoke(a, revoke.Rule{User: hub.User("44")}, 0, 1, 0) // there is room again
		a.Connect(auth{User: "42"})
	})
}

// TestRulesThatNobodyCouldTellArriveLater: the one node that had them could not be seen.
func TestRulesThatNobodyCouldTellArriveLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.node("a", revoke.Options{})
		r.revoke(a, revoke.Rule{User: hub.User("42")}, 0, 1, 0)
		a.Silence()
		b := r.node("b", revoke.Options{})
		there := b.Connect(auth{User: "42"})
		time.Sleep(5 * time.Second)
		a.Heal()
		there.ExpectEnd(hub.ReasonServerDisconnect)
		b.ExpectRefusal(auth{User: "42"}, refused)
	})
}

// TestNobodyIsLetInWhileTheRulesOfOthersAreNotKnown: where the broker cannot count, the list of members takes a
// second and a half to be complete.
func TestNobodyIsLetInWhileTheRulesOfOthersAreNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := simbroker.New(simbroker.Options{Bound: broker.Unknown}).Open("a")
		var list *revoke.List
		asked := make(chan error)
		n := hubtest.Start(t, func(broker.Broker) (*hub.Hub, error) {
			h, err := hub.New(b, hub.Options{OnStart: func(ctx context.Context, _ *hub.Hub) error {
				go func() { asked <- list.Ready() }() // ends below
				return nil
			}})
			if err != nil {
				return nil, err
			}
			list, err = revoke.New(h, revoke.Options{})
			h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				if err := list.Register(ctx, s, revoke.Token{}); errors.Is(err, context.DeadlineExceeded) {
					return hub.Refuse(err.Error(), nil)
				}
				return nil
			})
			return h, err
		})
		const why = "revoke: the rules of other nodes are not known yet; they are asked for while Run of the hub runs"
		if err := <-asked; err == nil || err.Error() != why {
			t.Errorf("Ready: %v", err)
		}
		n.ExpectRefusal(nil, why+": context deadline exceeded")
		n.Connect(nil)
		if err := list.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestSocketsThatAreGoneAreForgotten: the memory of a list follows those that are there.
func TestSocketsThatAreGoneAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.node("a", revoke.Options{})
		for range 1000 {
			a.Connect(auth{User: "42"}).Close()
		}
		if n := r.lists[a].Held(); n > 200 {
			t.Errorf("%d sockets are held", n)
		}
	})
}

// TestRulesOfAnySizeReachANewNode: in one page all of them would be more than an answer may be.
func TestRulesOfAnySizeReachANewNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.node("a", revoke.Options{})
		for i := range 5 {
			r.revoke(a, revoke.Rule{User: hub.User(strings.Repeat("x", 7<<20) + fmt.Sprint(i))}, 0, 1, 0)
			r.revoke(a, revoke.Rule{User: hub.User(fmt.Sprint(i))}, 0, 1, 0)
		}
		b := r.node("b", revoke.Options{})
		time.Sleep(10 * time.Second)
		if err := r.lists[b].Ready(); err != nil {
			t.Fatal(err)
		}
		members, err := b.Hub.Members()
		if err != nil || len(members) != 2 || members[0].Digest == 0 || members[0].Digest != members[1].Digest {
			t.Errorf("the nodes do not have the same rules: %v, %v", members, err)
		}
		for i := range 5 {
			b.ExpectRefusal(auth{User: fmt.Sprint(i)}, refused)
		}
		b.Connect(auth{User: "5"})
	})
}
