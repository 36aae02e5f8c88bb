package transport

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/engine"
)

const packetCost = 96 // as package hub has it

// TestTheBudgetOfAllQueues goes to the limit and past it, on polling, where nothing moves.
func TestTheBudgetOfAllQueues(t *testing.T) {
	const size = 10_000
	s := serve(t, Options{TotalQueueBytes: 6 * (size + packetCost)})
	var clients []*pollClient
	var echos []*echo
	for range 4 {
		clients = append(clients, s.polling())
		echos = append(echos, s.session())
	}
	send := func(i int) {
		t.Helper()
		if err := echos[i].c.Send(termed("x", size, engine.Terms{Overflow: engine.DropNewest}), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{0, 1, 1, 1, 2, 2} {
		send(i)
	}
	if got := s.h.Stats(); got.Queued != 6*(size+packetCost) || got.Slow != 0 {
		t.Fatalf("at the limit: %+v", got)
	}
	send(0) // as much as 2 has now, but 1 has most
	if got := receive(t, echos[1].closed); got != engine.ReasonServerClose {
		t.Errorf("closed for %q", got)
	}
	clients[1].wantEnd()
	send(3)
	send(3) // all have the same: 2 has had it for longest
	if got := s.h.Stats(); got.Queued != 6*(size+packetCost) || got.Slow != 1 {
		t.Fatalf("at the limit: %+v", got)
	}
	echos[0].c.Send(engine.NewPacket(engine.Terms{}, []byte("4small")), nil)
	if got := receive(t, echos[2].closed); got != engine.ReasonServerClose {
		t.Errorf("closed for %q", got)
	}
	for _, i := range []int{0, 3} {
		if _, body := clients[i].get(); strings.Count(body, "4x|") != 2 {
			t.Errorf("client %d got %.40q", i, body)
		}
	}
	s.wantNothingQueued()
}

// wantNothingQueued checks that nothing is counted, and nobody has a rank, once all is written.
func (s *server) wantNothingQueued() {
	s.t.Helper()
	for deadline := time.Now().Add(wait); ; runtime.Gosched() {
		queued := s.h.queued.Load()
		ranked, _ := s.h.ranks.largest()
		if queued == 0 && ranked == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d bytes are still counted, and a session has a rank: %v", queued, ranked != nil)
		}
	}
}

func TestWhatManyWaitForCountsOnce(t *testing.T) {
	const clients, size = 100, 10_000
	s := serve(t, Options{TotalQueueBytes: 300 * (size + packetCost)}) // a response is a copy
	var polls []*pollClient
	var echos []*echo
	for range clients {
		polls = append(polls, s.polling())
		echos = append(echos, s.session())
	}
	for i := range 10 {
		p := termed(fmt.Sprint(i), size, engine.Terms{})
		for _, e := range echos {
			if err := e.c.Send(p, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := s.h.Stats(); got.Queued != 10*(size+packetCost) || got.Slow != 0 {
		t.Fatalf("got %+v", got)
	}
	for _, c := range polls {
		if _, body := c.get(); strings.Count(body, "|") != 10 {
			t.Fatalf("got %.40q", body)
		}
	}
	s.wantNothingQueued()
}

// TestManyStuckClientsAreWithinTheBudget writes to clients that do not read, from several goroutines,
// four times what they may have together, in all ways in which something can wait, and meanwhile to one
// that does.
func TestManyStuckClientsAreWithinTheBudget(t *testing.T) {
	const stuck, budget, size = 60, 4 << 20, 2000
	s := serve(t, Options{TotalQueueBytes: budget, WriteTimeout: wait})
	var all []*echo
	for range stuck {
		s.websocket()
		all = append(all, s.session())
	}
	healthy := s.websocket()
	e := s.session()
	got := make(chan struct{}, 1)
	read := background(t, func() error {
		for i := 0; ; i++ {
			switch name := named(healthy.text()); name {
			case "end":
				return nil
			case fmt.Sprint(i):
				got <- struct{}{}
			default:
				return fmt.Errorf("message %d is %q", i, name)
			}
		}
	})
	var most int64
	done := make(chan struct{})
	var watching, writers sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				most = max(most, s.h.queued.Load())
			}
		}
	})
	for w := range 4 {
		writers.Go(func() {
			for i := w; i < stuck; i += 4 {
				all[i].c.Send(termed("x", 500_000, engine.Terms{}), nil) // more than the kernel takes
				for range 250 {
					if err := all[i].c.Send(termed("x", size, engine.Terms{}), nil); errors.Is(err, engine.ErrSlowConsumer) {
						t.Error("a queue is full by itself")
					}
				}
			}
		})
	}
	sent := 0
	for ; sent < 500; sent++ {
		if err := e.c.Send(termed(fmt.Sprint(sent), size, engine.Terms{}), nil); err != nil {
			t.Fatal(err)
		}
		receive(t, got) // it keeps up
	}
	if err := e.c.Send(termed("end", size, engine.Terms{}), nil); err != nil {
		t.Fatal(err)
	}
	writers.Wait()
	close(done)
	watching.Wait()
	if err := read(); err != nil {
		t.Error(err)
	}
	// What four writers have just queued may come on top, for a moment.
	if limit := int64(budget + 4*(500_000+size+2*packetCost)); most > limit || most < budget/2 {
		t.Errorf("%d bytes waited at most, want no more than %d", most, limit)
	}
	if got := s.h.Stats(); got.Slow == 0 || got.Queued > budget {
		t.Errorf("got %+v", got)
	}
	for _, e := range all {
		e.c.(*session).fail(engine.ReasonTransportClose)
	}
	s.wantNothingQueued()
}

// TestASessionThatHasTakenItsQueueIsNotEndedForTheBudget picks it while it holds most, and ends nobody when
// it has taken everything by then, or when others have made room.
func TestASessionThatHasTakenItsQueueIsNotEndedForTheBudget(t *testing.T) {
	const size = 10_000
	s := serve(t, Options{TotalQueueBytes: size / 2})
	c := s.polling()
	e := s.session()
	picked := e.c.(*session)
	s.h.o.TotalQueueBytes = 1 << 20 // nobody is ended while it is sent
	e.c.Send(termed("x", size, engine.Terms{}), nil)
	_, class := s.h.ranks.largest()
	picked.relieve(class) // there is room again
	c.get()
	s.wantNothingQueued()
	s.h.o.TotalQueueBytes = -1 // there is never room
	picked.relieve(class)
	c.post("4still")
	c.want("4still")
}
