package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
)

const room = "p:room"

// says answers with the given pages.
func says(pages ...string) func(context.Context, *Request) error {
	return func(ctx context.Context, q *Request) error {
		for _, p := range pages {
			if err := q.Send(ctx, []byte(p)); err != nil {
				return err
			}
		}
		return nil
	}
}

// outcome asks and puts into words what came, and how long it took.
func outcome(m *member, patience time.Duration, q Question) (string, time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	a := m.Ask(ctx, q)
	var got []string
	for tag, page := range a.Pages {
		got = append(got, strings.TrimPrefix(tag, "tag-")+":"+string(page))
	}
	slices.Sort(got)
	for _, x := range a.Missing() {
		got = append(got, fmt.Sprintf("%s is missing: %s", x.Node.Name, strings.TrimPrefix(x.Why.Error(), "cluster: ")))
	}
	if err := a.Err(); err != nil {
		got = append(got, "error: "+err.Error())
	}
	m.Node.mu.Lock()
	defer m.Node.mu.Unlock()
	if n := len(m.asking); n > 0 {
		got = append(got, fmt.Sprintf("%d questions are left", n))
	}
	return strings.Join(got, ", "), time.Since(began)
}

func want(t *testing.T, got string, took time.Duration, wanted string, limit time.Duration) {
	t.Helper()
	if got != wanted || took > limit {
		t.Errorf("after %v\ngot  %s\nwant %s, within %v", took, got, wanted, limit)
	}
}

var bounds = map[string]broker.Bound{"exact": broker.Exact, "at least": broker.AtLeast, "unknown": broker.Unknown}

func TestAQuestionEndsWhenAllWhoAreSubscribedHaveAnswered(t *testing.T) {
	for name, bound := range bounds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				defer r.stop()
				a, b, c := r.start(says("1"), bound), r.start(says("2", "3"), bound), r.start(says(), bound)
				r.subscribe(room, a, b)
				time.Sleep(2 * time.Second)
				for _, from := range []*member{a, b, c, r.guest(bound)} {
					time.Sleep(2 * time.Second)
					got, took := outcome(from, time.Second, Question{Subject: room, Body: []byte("?")})
					want(t, got, took, "n000:1, n001:2, n001:3", boundedTime)
				}
				got, took := outcome(c, time.Second, Question{Subject: "p:nobody"})
				if bound == broker.Unknown {
					want(t, got, took, "n000:1, n001:2, n001:3", boundedTime)
				} else {
					want(t, got, took, "", 0)
				}
			})
		})
	}
}

// TestAQuestionToOneNodeEndsWithItsAnswer also while the list of members is not complete: nobody else could answer.
func TestAQuestionToOneNodeEndsWithItsAnswer(t *testing.T) {
	for name, bound := range bounds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				defer r.stop()
				a := r.start(says("1", "2"), bound)
				time.Sleep(2 * time.Second)
				b := r.start(says("3"), bound)
				if _, err := b.Members(); bound != broker.Exact && !errors.Is(err, ErrIncomplete) {
					t.Errorf("the list of a node that has just begun: %v", err)
				}
				got, took := outcome(b, time.Minute, Question{To: a.Tag()})
				want(t, got, took, "n000:1, n000:2", 0)
			})
		})
	}
}

func TestAllMembersOrAllOthersAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a, _, _ := r.start(says("1"), 0), r.start(says("2"), 0), r.start(says("3"), 0)
		got, took := outcome(a, time.Second, Question{})
		want(t, got, took, "n000:1, n001:2, n002:3", 0)
		got, took = outcome(a, time.Second, Question{Others: true})
		want(t, got, took, "n001:2, n002:3", 0)
	})
}

func TestAQuestionEndsWhenTheLeaseOfWhoIsMissingHas(t *testing.T) {
	for name, bound := range bounds {
		for how, fail := range map[string]func(*member){"killed": (*member).kill, "frozen": func(m *member) { m.tap.freeze() }} {
			t.Run(name+" and "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t)
					defer r.stop()
					a, b, c := r.start(says("1"), bound), r.start(says("2"), bound), r.start(says("3"), bound)
					r.subscribe(room, a, b, c)
					time.Sleep(3 * time.Second)
					fail(c)
					got, took := outcome(a, time.Minute, Question{Subject: room})
					wanted := "n000:1, n001:2, n002 is missing: the node is gone"
					if bound == broker.Exact && how == "killed" {
						wanted = "n000:1, n001:2" // the broker knows it
					}
					want(t, got, took, wanted, lease+lookInterval)

					time.Sleep(lease)
					if how == "frozen" {
						c.tap.Broker.Unsubscribe(t.Context(), room) // by now the broker has noticed
						synctest.Wait()
					}
					got, took = outcome(a, time.Minute, Question{Subject: room})
					want(t, got, took, "n000:1, n001:2", boundedTime)
					if how == "frozen" {
						c.tap.thaw()
					}
				})
			})
		}
	}
}

func TestWhatHasComeIsReturnedWhenTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		slow := func(ctx context.Context, q *Request) error {
			if err := q.Send(ctx, []byte("begun")); err != nil {
				return err
			}
			if err := q.Send(ctx, []byte("held back until more is known")); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
		a, b, c := r.start(says("1"), 0), r.start(slow, 0), r.start(says("3"), 0)
		r.subscribe(room, a, b, c)
		for _, patience := range []time.Duration{10 * time.Millisecond, 4 * time.Second} {
			got, took := outcome(a, patience, Question{Subject: room})
			want(t, got, took, "n000:1, n001:begun, n002:3, n001 is missing: the node has not answered in time", patience)
		}
		time.Sleep(time.Hour)
		b.Node.mu.Lock()
		defer b.Node.mu.Unlock()
		if n := len(b.requests); n > 0 {
			t.Errorf("%d requests are still being answered", n)
		}
	})
}

func TestWhoWantsNoMoreEndsTheAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		ended := make(chan error, 1)
		endless := func(ctx context.Context, q *Request) error {
			for {
				if err := q.Send(ctx, []byte("x")); err != nil {
					ended <- err
					return err
				}
			}
		}
		a, b := r.start(nil, 0), r.start(endless, 0)
		r.subscribe(room, b)
		n := 0
		for range a.Ask(t.Context(), Question{Subject: room}).Pages {
			if n++; n == 100 {
				break
			}
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnAnswerIsNoLargerThanItsWindowUntilItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		const pages = 1000
		sent := 0
		many := func(ctx context.Context, q *Request) error {
			for sent = range pages {
				if err := q.Send(ctx, bytes.Repeat([]byte{byte(sent)}, 1000)); err != nil {
					return err
				}
			}
			return nil
		}
		a, b := r.start(nil, 0), r.start(many, 0)
		r.subscribe(room, b)
		n := 0
		for _, page := range a.Ask(t.Context(), Question{Subject: room}).Pages {
			synctest.Wait()
			if sent > n+window+2 {
				t.Fatalf("%d pages are made, and %d taken", sent, n)
			}
			if page[0] != byte(n) {
				t.Fatalf("page %d is %d", n, page[0])
			}
			n++
		}
		if n != pages {
			t.Errorf("%d pages came, want %d", n, pages)
		}
	})
}

func TestALargePageIsSeveralMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		large := bytes.Repeat([]byte("0123456789"), 300_000) // more messages than a window has
		a, b := r.start(nil, 0), r.start(says(string(large), "end"), 0)
		r.subscribe(room, b)
		a.tap.dropping(func(m broker.Message) bool {
			if len(m.Data) > 64<<10 {
				t.Errorf("a message has %d bytes", len(m.Data))
			}
			return false
		})
		var got []string
		for _, page := range a.Ask(t.Context(), Question{Subject: room}).Pages {
			got = append(got, string(page))
		}
		if !slices.Equal(got, []string{string(large), "end"}) {
			t.Errorf("%d pages came", len(got))
		}
	})
}

// dropOne loses the n-th message of a type, from 1 on.
func dropOne(kind byte, n int) func(broker.Message) bool {
	seen := 0
	return func(m broker.Message) bool {
		if m.Data[len(head)] == kind {
			seen++
		}
		return seen == n && m.Data[len(head)] == kind
	}
}

func TestMessagesThatAreLost(t *testing.T) {
	pages := make([]string, 40)
	for i := range pages {
		pages[i] = string(rune('A' + i))
	}
	var all, some []string
	for _, p := range pages {
		all = append(all, "n001:"+p)
	}
	slices.Sort(all)
	for _, p := range pages[:4] {
		some = append(some, "n001:"+p)
	}
	for _, c := range []struct {
		name string
		at   int // node
		drop func(broker.Message) bool
		q    Question
		say  []string
		want string
	}{
		{"the question", 1, dropOne(typeAsk, 1), Question{}, []string{"1"}, "n001:1"},
		{"the only answer", 0, dropOne(typePage, 1), Question{}, []string{"1"}, "n001:1"},
		{"the only answer to what must not be done twice", 0, dropOne(typePage, 1), Question{Once: true}, []string{"1"}, "n001:1"},
		{"a long answer to what must not be done twice", 0, dropOne(typePage, 1), Question{Once: true}, []string{strings.Repeat("1", 1000)},
			"n001 is missing: a part of the node's answer is lost"},
		{"a page", 0, dropOne(typePage, 5), Question{}, pages, strings.Join(some, ", ") + ", n001 is missing: a part of the node's answer is lost"},
		{"the last page", 0, dropOne(typePage, 40), Question{}, pages, strings.Join(all[:39], ", ") + ", n001 is missing: a part of the node's answer is lost"},
		{"leave to send more", 1, dropOne(typeMore, 2), Question{}, pages, strings.Join(all, ", ")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				defer r.stop()
				done := 0
				a := r.start(nil, 0)
				b := r.start(func(ctx context.Context, q *Request) error {
					done++
					return says(c.say...)(ctx, q)
				}, 0)
				r.subscribe(room, b)
				r.nodes[c.at].tap.dropping(c.drop)
				c.q.Subject = room
				got, took := outcome(a, time.Minute, c.q)
				want(t, got, took, c.want, 2*time.Second)
				if done > 1 && c.q.Once {
					t.Errorf("it was done %d times", done)
				}
			})
		})
	}
}

func TestAnAnswerThatComesTwiceCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a, b, c := r.start(nil, 0), r.start(says("1"), 0), r.start(says("2"), 0)
		r.subscribe(room, b, c)
		seen := 0
		a.tap.dropping(func(m broker.Message) bool {
			if m.Data[len(head)] == typePage {
				seen++
				a.Deliver(m.Data[len(head):])
				a.Deliver(m.Data[len(head):])
			}
			return false
		})
		got, took := outcome(a, time.Minute, Question{Subject: room})
		want(t, got, took, "n001:1, n002:2", 0)
		if seen != 2 {
			t.Errorf("%d messages came", seen)
		}
	})
}

func TestANodeThatFailsIsMissingWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a := r.start(nil, 0)
		b := r.start(func(ctx context.Context, q *Request) error {
			q.Send(ctx, []byte("half"))
			return errors.New("the disk is full")
		}, 0)
		r.subscribe(room, b)
		got, took := outcome(a, time.Minute, Question{Subject: room})
		want(t, got, took, "n001:half, n001 is missing: the disk is full", 0)
	})
}

func TestWhoDoesNotRunCannotAsk(t *testing.T) {
	a := New(nil, Options{Prefix: "p", Tag: "x"}).Ask(t.Context(), Question{Subject: room})
	for range a.Pages {
		t.Error("a page")
	}
	if !errors.Is(a.Err(), ErrNotRunning) {
		t.Errorf("got %v", a.Err())
	}
}

func TestAQuestionThatCannotBePublishedSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a := r.start(nil, 0)
		a.tap.mu.Lock()
		a.tap.dead = true
		a.tap.mu.Unlock()
		got, took := outcome(a, time.Minute, Question{Subject: room})
		want(t, got, took, "error: cluster: ask: broker: unavailable", 0)
	})
}

func TestQuestionsFromAllSidesAllEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		var all []*member
		for i := range 5 {
			all = append(all, r.start(says("x", "y"), []broker.Bound{broker.Exact, broker.AtLeast, broker.Unknown}[i%3]))
		}
		r.subscribe(room, all...)
		time.Sleep(2 * time.Second)
		var asking sync.WaitGroup
		for i := range 200 {
			asking.Go(func() {
				got, took := outcome0(all[i%4], Question{Subject: room})
				x, y, missing := strings.Count(got, "x"), strings.Count(got, "y"), strings.Count(got, "missing")
				if x != y || x != 5 && x != 4 || x+missing > 5 || i <= 100 && x+missing < 5 || took > lease+time.Second {
					t.Errorf("question %d, after %v: %s", i, took, got)
				}
			})
			time.Sleep(time.Millisecond)
			if i == 100 {
				all[4].kill()
			}
		}
		asking.Wait()
	})
}

// outcome0 is the outcome without the names of the nodes that have answered.
func outcome0(m *member, q Question) (string, time.Duration) {
	began := time.Now()
	a := m.Ask(context.Background(), q)
	got := ""
	for _, page := range a.Pages {
		got += string(page) + " "
	}
	for range a.Missing() {
		got += "missing "
	}
	return got, time.Since(began)
}

func FuzzWhatOthersSayEndsNothing(f *testing.F) {
	n := New(nil, Options{Prefix: "p", Tag: "x", Self: func() Member { return Member{Name: "x"} }})
	f.Add(n.nextBeat(beatHello))
	a := n.Ask(f.Context(), Question{Topic: 1, Body: []byte("?")})
	f.Add(a.message(3, []string{"a", "b"}))
	f.Add((&page{number: 1, tag: "y", body: []byte("z")}).append(nil))
	f.Add(n.endOf(1))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := New(nil, Options{Prefix: "p", Tag: "x", Answer: says("1")})
		n.asking[1] = n.Ask(t.Context(), Question{})
		n.Deliver(data)
		n.Deliver(slices.Clone(data))
		n.work.Close()
		n.endAnswering()
		n.work.Wait()
	})
}

func TestANodeWhoseAnswerCannotBeReadIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		a, b, c := r.start(nil, 0), r.start(says("one", "bad", "two"), 0), r.start(says("three"), 0)
		r.subscribe(room, b, c)
		asking := a.Ask(t.Context(), Question{Subject: room})
		var got []string
		for tag, page := range asking.Pages {
			if got = append(got, string(page)); string(page) == "bad" {
				asking.Unreadable(tag)
			}
		}
		if slices.Sort(got); !slices.Equal(got, []string{"bad", "one", "three", "two"}) {
			t.Errorf("%q came", got)
		}
		if m := asking.Missing(); len(m) != 1 || m[0].Node.Tag != b.Tag() || !errors.Is(m[0].Why, ErrUnreadable) {
			t.Errorf("missing: %v", m)
		}
		if l := asking.Answered(); len(l) != 1 || l[0].Tag != c.Tag() {
			t.Errorf("answered: %v", l)
		}
	})
}

func TestAPageThatNobodyHasTakenIsNoAnswer(t *testing.T) {
	b := Member{Tag: "b", Name: "b"}
	a := &Asking{
		asked: map[string]Member{"b": b},
		parts: map[string]*part{"b": {done: true}},
		ready: []arrived{{"b", []byte("page"), 1}},
	}
	a.giveUp() // the page came together with the end of the context
	if len(a.missing) != 1 || a.missing[0].Node.Tag != "b" || !errors.Is(a.missing[0].Why, ErrLate) || len(a.Answered()) > 0 {
		t.Errorf("missing: %v, answered: %v", a.missing, a.Answered())
	}
}
