package hub

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
)

// leaving is a broker whose Unsubscribe waits, as one does that is far away.
type leaving struct {
	broker.Broker
	subscribed chan []string // what Unsubscribe is about to end
	proceed    chan struct{}
}

func (b *leaving) Unsubscribe(ctx context.Context, subjects ...string) []error {
	select {
	case b.subscribed <- subjects:
	case <-ctx.Done():
		return broker.Each(len(subjects), ctx.Err())
	}
	select {
	case <-b.proceed:
	case <-ctx.Done():
	}
	return b.Broker.Unsubscribe(ctx, subjects...)
}

// A connection of a hub that drains gets what the node is still counted for, and is closed when it no longer is.
func TestADrainEndsSubscriptionsBeforeConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memory.NewBus()
		b := &leaving{bus.Broker(), make(chan []string, 100), make(chan struct{})}
		h, stop := startStoppable(t, b, Options{})
		c, s := connect(t, h)
		if err := s.Join(t.Context(), Room("room")); err != nil {
			t.Fatal(err)
		}
		e := NewEmitter(bus.Broker(), EmitterOptions{})
		go stop() // the test's cleanup waits for it
		ending := <-b.subscribed
		mustEmit(t, e, Room("room"), "counted")
		time.Sleep(time.Second)
		if len(c.packets) != 1 || c.closedFor() != "" {
			t.Errorf("%d packets have arrived, closed for %q", len(c.packets), c.closedFor())
		}
		close(b.proceed)
		time.Sleep(drainStep)
		synctest.Wait() // the next step falls into the same instant
		if c.closedFor() != ReasonShutdown {
			t.Errorf("closed for %q", c.closedFor())
		}
		if r, err := e.Emit(t.Context(), Room("room"), "late"); err != nil || !r.Nobody() {
			t.Errorf("after the end: %+v, %v", r, err)
		}
		for len(b.subscribed) > 0 { // not all need be in the first call
			ending = append(ending, <-b.subscribed...)
		}
		if want := s.ns.subject + ":room"; !slices.Contains(ending, want) {
			t.Errorf("%q end, not %q", ending, want)
		}
	})
}

// A broker that does not answer holds a drain up for no longer than withdrawLimit.
func TestADrainDoesNotWaitForABrokerThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &leaving{memory.NewBus().Broker(), make(chan []string, 100), make(chan struct{})}
		h, stop := startStoppable(t, b, Options{})
		c, _ := connect(t, h)
		begin := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took < withdrawLimit || took > withdrawLimit+interestTimeout {
			t.Errorf("the drain took %v", took)
		}
		if c.closedFor() != ReasonShutdown {
			t.Errorf("closed for %q", c.closedFor())
		}
	})
}

// A connection that is still being let in holds up nobody behind it.
func TestADrainIsSpreadAlsoBesideAHookThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := startStoppable(t, memory.NewBus().Broker(), Options{DrainWindow: 10 * time.Second})
		hanging := h.Of("/hangs")
		hanging.OnConnect(func(ctx context.Context, _ *Socket) error {
			<-ctx.Done()
			return ctx.Err()
		})
		const n = 1000
		var begin time.Time
		var mu sync.Mutex
		var perSecond [12]int
		h.Of("/").OnDisconnect(func(*Socket, Reason) {
			mu.Lock()
			defer mu.Unlock()
			perSecond[time.Since(begin)/time.Second]++
		})
		for i := range n {
			p, _ := connect(t, h)
			if i%10 == 0 {
				p.say("0/hangs,")
			}
		}
		begin = time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if most := slices.Max(perSecond[:]); most > n/7 {
			t.Errorf("%d of %d connections were closed in one second: %d", most, n, perSecond)
		}
	})
}

// A room is there for its withdrawn members, and for those that come after them.
func TestWithdrawnMembersOfARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := alone(t, Options{})
		ctx := t.Context()
		var all []*Socket
		var peers []*peer
		for range 3 {
			p, s := connect(t, h)
			if err := s.Join(ctx, Room("room")); err != nil {
				t.Fatal(err)
			}
			all, peers = append(all, s), append(peers, p)
		}
		subject := all[0].ns.subject + ":room"
		r := h.index.lookup(subject)
		for _, s := range all[:2] {
			if s.client.withdraw(false); h.index.lookup(subject) != r || !r.subscribed {
				t.Fatal("a room with a member has lost its subscription")
			}
		}
		all[2].client.withdraw(false)
		synctest.Wait()
		if !all[2].client.withdraw(false) || r.subscribed {
			t.Error("a room that only withdrawn members are in is still subscribed")
		}
		if h.index.lookup(subject) != r || !all[1].in(r) {
			t.Error("the room is gone, and its members are not")
		}
		if err := all[0].Join(ctx, Room("other")); err != nil { // it may still do so
			t.Error(err)
		}
		all[0].client.withdraw(false)
		synctest.Wait()
		if other := h.index.lookup(all[0].ns.subject + ":other"); !all[0].client.withdraw(false) || other == nil || other.subscribed {
			t.Error("what was joined later is not withdrawn")
		}
		_, late := connect(t, h)
		if err := late.Join(ctx, Room("room")); err != nil {
			t.Fatal(err)
		}
		mustEmit(t, h.Emitter(), Room("room"), "to all four")
		for i, p := range peers {
			if len(p.packets) != 1 {
				t.Errorf("member %d got %d packets", i, len(p.packets))
			}
		}
		var gone sync.WaitGroup
		for _, p := range peers {
			gone.Go(func() { p.end(ReasonTransportClose) })
		}
		gone.Wait()
		synctest.Wait()
		if h.index.lookup(subject) != r || !r.subscribed || r.n != 1 {
			t.Errorf("%d members, subscribed %t", r.n, r.subscribed)
		}
		late.Leave(Room("room"))
		synctest.Wait()
		if h.index.lookup(subject) != nil {
			t.Error("the empty room is still there")
		}
		for i := range h.index.shards {
			if n := len(h.index.shards[i].withdrawn); n > 0 {
				t.Errorf("%d rooms are remembered", n)
			}
		}
	})
}
