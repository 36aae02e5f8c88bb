package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
)

// mortal is a broker whose node can be killed: nothing leaves it any more, and nothing comes.
type mortal struct {
	broker.Broker
	dead atomic.Bool

	mu       sync.Mutex
	subjects []string         // guarded by mu; that were subscribed
	late     bool             // guarded by mu; events wait
	all      bool             // guarded by mu; with late: everything does
	waiting  []broker.Message // guarded by mu
	deliver  func(broker.Message)

	watching sync.Mutex
	watched  logWatch // guarded by watching
}

// logWatch is called once each, where it is not nil.
type logWatch struct {
	head func()       // behind Head
	save func()       // before Save
	drop func() error // in the place of Drop
}

// watch has w be told of what the node asks of its log next.
func (m *mortal) watch(w logWatch) {
	m.watching.Lock()
	defer m.watching.Unlock()
	m.watched = w
}

// hold has events wait until let, or all that comes.
func (m *mortal) hold(all bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late, m.all = true, all
}

func (m *mortal) let() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range m.waiting {
		m.deliver(msg)
	}
	m.late, m.waiting = false, nil
}

// arrive delivers a message, or has it wait.
func (m *mortal) arrive(msg broker.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.dead.Load():
	case m.late && (m.all || msg.Place != 0):
		m.waiting = append(m.waiting, msg.Own())
	default:
		m.deliver(msg)
	}
}

// kill kills the node, and with false undoes that.
func (m *mortal) kill(dead bool) {
	m.dead.Store(dead)
	m.mu.Lock()
	subjects := slices.Clone(m.subjects)
	m.mu.Unlock() // the bus may wait for what is being delivered, and that for the lock
	if dead {
		m.Broker.Unsubscribe(context.Background(), subjects...)
	} else {
		m.Broker.Subscribe(context.Background(), subjects...)
	}
}

func (m *mortal) Subscribe(ctx context.Context, subjects ...string) []error {
	m.mu.Lock()
	m.subjects = append(m.subjects, subjects...)
	m.mu.Unlock() // see kill
	return m.Broker.Subscribe(ctx, subjects...)
}

func (m *mortal) check() error {
	if m.dead.Load() {
		return broker.ErrUnavailable
	}
	return nil
}

func (m *mortal) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if err := m.check(); err != nil {
		return make([]broker.Receipt, len(msgs)), err
	}
	return m.Broker.Publish(ctx, msgs...)
}

func (m *mortal) Run(ctx context.Context, h broker.Handler) error {
	m.deliver = h.Deliver
	h.Deliver = m.arrive
	return m.Broker.Run(ctx, h)
}

func (m *mortal) Log() (broker.Log, error) {
	l, err := m.Broker.(broker.Logger).Log()
	return mortalLog{l, m}, err
}

type mortalLog struct {
	broker.Log
	m *mortal
}

func (l mortalLog) Head(ctx context.Context) (uint64, error) {
	at, err := l.Log.Head(ctx)
	l.m.watching.Lock()
	f := l.m.watched.head
	l.m.watched.head = nil
	l.m.watching.Unlock()
	if f != nil {
		f()
	}
	return at, err
}

func (l mortalLog) Save(ctx context.Context, key, was string, r broker.Record) (bool, error) {
	l.m.watching.Lock()
	f := l.m.watched.save
	l.m.watched.save = nil
	l.m.watching.Unlock()
	if f != nil {
		f()
	}
	if err := l.m.check(); err != nil {
		return false, err
	}
	return l.Log.Save(ctx, key, was, r)
}

func (l mortalLog) Drop(ctx context.Context, key, owner string) error {
	l.m.watching.Lock()
	f := l.m.watched.drop
	l.m.watched.drop = nil
	l.m.watching.Unlock()
	if f != nil {
		return f()
	}
	if err := l.m.check(); err != nil {
		return err
	}
	return l.Log.Drop(ctx, key, owner)
}

// vague is a broker that does not know whether nobody took a message with a place.
type vague struct{ broker.Broker }

func (v vague) Log() (broker.Log, error) { return v.Broker.(broker.Logger).Log() }

func (v vague) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	receipts, err := v.Broker.Publish(ctx, msgs...)
	for i, r := range receipts {
		if msgs[i].Place != 0 && r.Nobody() {
			receipts[i].Bound = broker.Unknown
		}
	}
	return receipts, err
}

// mortals are nodes with a log that can be killed.
func mortals(t *testing.T, n int, o Options) (hubs []*Hub, kill func(i int), bus *memory.Bus) {
	return mortalsOn(t, n, o, (*memory.Bus).Broker)
}

func mortalsOn(t *testing.T, n int, o Options, on func(*memory.Bus) broker.Broker) (hubs []*Hub, kill func(i int), bus *memory.Bus) {
	bus = memory.NewLoggedBus(broker.LogOptions{Age: 5 * time.Minute})
	o.Recovery.On, o.Recovery.Log = true, true
	o.Greeting.Off = true
	var brokers []*mortal
	for i := range n {
		b := &mortal{Broker: on(bus)}
		brokers = append(brokers, b)
		o.Node = fmt.Sprint("n", i)
		hubs = append(hubs, start(t, b, o))
	}
	for _, h := range hubs {
		for list, err := h.cluster.Members(); err != nil || len(list) < n; list, err = h.cluster.Members() {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return hubs, func(i int) { brokers[i].kill(true) }, bus
}

func TestASessionOutlivesItsNode(t *testing.T) { testOutlives(t, (*memory.Bus).Broker) }

// TestASessionOutlivesItsNodeWhereReceiptsAreVague finds a socket that has moved all the same.
func TestASessionOutlivesItsNodeWhereReceiptsAreVague(t *testing.T) {
	testOutlives(t, func(bus *memory.Bus) broker.Broker { return vague{bus.Broker()} })
}

func testOutlives(t *testing.T, on func(*memory.Bus) broker.Broker) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, bus := mortalsOn(t, 4, moving, on)
		for _, h := range hubs {
			h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
				if s.Recovered() {
					isAnn(t, s)
					return nil
				}
				s.SetData(&profile{"Ann"})
				if err := s.Emit("x", "hello"); err != nil {
					t.Error(err)
				}
				if err := s.Join(ctx, Room("gone")); err != nil {
					return err
				}
				s.Leave(Room("gone"))
				return s.Register(ctx, "7")
			})
		}
		b := on(bus)
		defer b.Close()
		worker := NewEmitter(b, EmitterOptions{})
		mustEmit(t, worker, Room("a"), "x", "before the join")
		r := comes(t, hubs[0])
		if err := r.socket().Join(context.Background(), Room("a")); err != nil {
			t.Fatal(err)
		}
		sid, pid := r.sid, r.pid
		n, wants := 0, []string{"[x hello]"}
		emit := func(from *Emitter) {
			t.Helper()
			for _, to := range []Target{User("7"), Room("a"), SocketID(sid), Everyone} {
				n++
				mustEmit(t, from, to, "x", n, Binary("b"))
				wants = append(wants, fmt.Sprintf("[x %d map[_placeholder:true num:0]]", n))
			}
			mustEmit(t, from.Volatile(), Room("a"), "x", "worth nothing later")
			mustEmit(t, from, Room("gone"), "x", "of a room that it has left")
			mustEmit(t, from.Except(SocketID(sid)), Everyone, "x", "for others")
			mustEmit(t, from.Except(Room("a")), User("7"), "x", "for other rooms")
			if _, err := from.EmitUnion(context.Background(), []Target{User("7"), Room("a")}, "x", "both", n); err != nil {
				t.Fatal(err)
			}
			wants = append(wants, fmt.Sprintf("[x both %d]", n))
		}
		read := func(k int) {
			t.Helper()
			for k > 0 {
				got := fmt.Sprint(r.event(t))
				if got == "[x worth nothing later]" {
					continue
				}
				if got != wants[0] {
					t.Fatalf("the client got %s, want %s", got, wants[0])
				}
				wants = wants[1:]
				k--
			}
		}
		for i := range 3 {
			emit(worker)
			emit(hubs[i+1].Emitter())
			if err := r.h.socket(sid).Emit("x", "own", i); err != nil {
				t.Fatal(err)
			}
			wants = append(wants, fmt.Sprint("[x own ", i, "]"))
			read(3 + i)
			time.Sleep(time.Second) // a Leave is known to the broker soon
			kill(i)
			emit(worker)
			emit(hubs[3].Emitter())
			r.at(hubs[i+1]).connect(t)
			if !r.recovered || r.sid != sid || r.pid != pid {
				t.Fatalf("from node %d on: recovered %v, %s was %s: %+v", i, r.recovered, r.sid, sid, r.h.Stats())
			}
			emit(worker)
			read(len(wants))
			if i == 1 {
				time.Sleep(10 * time.Minute) // of silence
			}
		}
		for len(r.packets) > 0 {
			if got := fmt.Sprint(r.event(t)); got != "[x worth nothing later]" {
				t.Errorf("more than there was: %s", got)
			}
		}
	})
}

// TestWhatComesWhileASessionIsInherited has the next node lag behind, and events come at each step.
func TestWhatComesWhileASessionIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var worker *Emitter
		n := 0
		emit := func(rooms ...string) {
			for _, room := range rooms {
				n++
				mustEmit(t, worker, Room(room), "x", n, room)
			}
		}
		o := moving
		o.Recovery.Data = func() any { // between the first look into the log and the joins
			emit("a", "b")
			return new(profile)
		}
		hubs, kill, bus := mortals(t, 3, o)
		b := bus.Broker()
		defer b.Close()
		worker = NewEmitter(b, EmitterOptions{})
		next := hubs[1].broker.Broker.(*mortal)
		hubs[0].Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
			s.SetData(&profile{"Ann"})
			return s.Join(ctx, Room("a"), Room("b"))
		})
		hubs[1].Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
			if !s.Recovered() {
				return s.Join(ctx, Room("a"))
			}
			next.let() // what the client has had from the node before comes only now
			emit("a")
			if err := s.Join(ctx, Room("new")); err != nil {
				return err
			}
			next.hold(true)
			emit("new", "b", "new", "a")
			time.AfterFunc(time.Second, next.let)
			return nil
		})
		other, _ := connect(t, hubs[1]) // so that this node has the room already
		defer other.end(ReasonTransportClose)
		r := comes(t, hubs[0])
		next.hold(false)
		emit("new", "a", "b")
		r.wantEvents(t, "[x 2 a]", "[x 3 b]")
		time.Sleep(time.Second)
		kill(0)
		time.Sleep(10 * time.Second)
		emit("a", "b")
		if r.at(hubs[1]).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
		}
		emit("new", "a")
		for i, room := range []string{"a", "b", "a", "b", "a", "new", "b", "new", "a", "new", "a"} {
			r.wantEvents(t, fmt.Sprintf("[x %d %s]", 4+i, room))
		}
		r.wantNothing()
	})
}

// TestOneNodeInheritsASession has a client come to two nodes at once: one of them has its session in the end, and the other
// one closes the connection, so that the client comes once more.
func TestOneNodeInheritsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, _ := mortals(t, 3, moving)
		r := comes(t, hubs[0])
		kill(0)
		mustEmit(t, hubs[1].Emitter(), SocketID(r.sid), "x", 1)
		both := []*returning{{h: hubs[1], pid: r.pid, offset: r.offset}, {h: hubs[2], pid: r.pid, offset: r.offset}}
		for _, c := range both {
			c.dial(t)
		}
		synctest.Wait()
		time.Sleep(9 * time.Second)
		var won, lost *returning
		for _, c := range both {
			if c.closedFor() == "" {
				won = c
			} else {
				lost = c
			}
		}
		if won == nil || lost == nil {
			t.Fatalf("both nodes, or none, have taken the session: %+v, %+v", hubs[1].Stats(), hubs[2].Stats())
		}
		won.answer(t)
		won.wantEvents(t, "[x 1]")
		if !won.recovered || won.sid != r.sid {
			t.Errorf("it is not recovered: %+v", won.h.Stats())
		}
		lost.connect(t) // by what it says it has had nothing
		lost.wantEvents(t, "[x 1]")
		<-won.ended
		if !lost.recovered {
			t.Errorf("the session is not handed over: %+v", lost.h.Stats())
		}
	})
}

func TestRoomsThatWereJoinedAndLeftInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, _ := mortals(t, 2, moving)
		e, ctx := hubs[1].Emitter(), context.Background()
		leaves, joins := comes(t, hubs[0]), comes(t, hubs[0])
		if err := leaves.socket().Join(ctx, Room("left"), Room("kept")); err != nil {
			t.Fatal(err)
		}
		leaves.socket().Leave(Room("left"))
		time.Sleep(time.Second) // the broker is told soon
		s := joins.socket()
		if err := s.Join(ctx, Room("again")); err != nil {
			t.Fatal(err)
		}
		mustEmit(t, e, Room("late"), "x", "before it joined")
		s.Leave(Room("again"))
		mustEmit(t, e, Room("again"), "x", "before it joined again")
		if err := s.Join(ctx, Room("late"), Room("again")); err != nil {
			t.Fatal(err)
		}
		for _, room := range []string{"late", "left", "again", "kept"} {
			mustEmit(t, e, Room(room), "x", room)
		}
		kill(0)
		for r, want := range map[*returning][]string{leaves: {"[x kept]"}, joins: {"[x late]", "[x again]"}} {
			if r.at(hubs[1]).connect(t); !r.recovered {
				t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
			}
			r.wantEvents(t, want...)
			r.wantNothing()
		}
	})
}

// TestNodesAreKilledUnderLoad has nodes killed one after the other while clients lose their connections.
func TestNodesAreKilledUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients, events, nodes = 6, 1200, 5
		hubs, kill, bus := mortals(t, nodes, moving)
		for _, h := range hubs {
			h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
				if s.Recovered() {
					return nil
				}
				return s.Join(ctx, Room("0"), Room("1"), Room("2"))
			})
		}
		var alive atomic.Int32 // the nodes from this one on live
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for i := range 3 {
			wg.Go(func() {
				b := bus.Broker()
				defer b.Close()
				e := NewEmitter(b, EmitterOptions{})
				<-begin
				for n := range events {
					mustEmit(t, e, Room(fmt.Sprint(i)), "x", i, n)
					time.Sleep(time.Duration(n%7) * 20 * time.Millisecond)
				}
			})
		}
		wg.Go(func() {
			<-begin
			for i := range nodes - 1 {
				time.Sleep(15 * time.Second)
				alive.Add(1)
				kill(i)
			}
		})
		var ready sync.WaitGroup
		ready.Add(clients)
		for i := range clients {
			wg.Go(func() {
				r := comes(t, hubs[i%nodes])
				ready.Done()
				<-begin
				next := make([]int, 3)
				for n := 0; n < 3*events; {
					if at := slices.Index(hubs, r.h); at < int(alive.Load()) || n%41 == i {
						if n%2 == 0 && at >= int(alive.Load()) {
							r.lose()
						}
						for answered := false; !answered; answered = len(r.packets) > 0 { // as a client does: the node may be killed meanwhile
							first := int(alive.Load())
							r.at(hubs[first+n%(nodes-first)]).dial(t)
							for until := time.Now().Add(9 * time.Second); len(r.packets) == 0 && time.Now().Before(until); {
								time.Sleep(10 * time.Millisecond)
							}
						}
						if r.answer(t); !r.recovered {
							t.Errorf("client %d is not recovered by %s: %+v", i, r.h.Node(), r.h.Stats())
							return
						}
					}
					var args []any
					select {
					case p := <-r.packets:
						args = r.take(t, p)
					case <-time.After(time.Second):
						continue
					}
					from, number := int(args[1].(float64)), int(args[2].(float64))
					if next[from] != number {
						t.Errorf("client %d got event %d of emitter %d, want %d", i, number, from, next[from])
						return
					}
					next[from]++
					n++
				}
			})
		}
		ready.Wait()
		close(begin)
		wg.Wait()
		if alive.Load() != nodes-1 {
			t.Errorf("%d nodes were killed", alive.Load())
		}
	})
}

func TestClientsThatFlapBetweenNodesWithALog(t *testing.T) {
	hubs, _, _ := mortals(t, 3, moving)
	for _, h := range hubs {
		h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
			if s.Recovered() {
				return nil
			}
			return s.Join(ctx, Room("0"), Room("1"), Room("2"))
		})
	}
	flap(t, hubs, 3, 300)
}

func TestWhatDoesNotOutliveANode(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		before func(t *testing.T, hubs []*Hub, r *returning)
		count  func(s Stats) uint64
	}{
		{"a question", func(t *testing.T, hubs []*Hub, r *returning) {
			go r.socket().EmitAck(ctx, "q") // ends with the socket
			r.next()
		}, func(s Stats) uint64 { return s.UnrecoveredQuestion }},
		{"a question to a room", func(t *testing.T, hubs []*Hub, r *returning) {
			go func() { // ends with the lease of the node
				for range hubs[1].Emitter().EmitAck(ctx, SocketID(r.sid), "q").All {
				}
			}()
			r.next()
		}, func(s Stats) uint64 { return s.UnrecoveredQuestion }},
		{"a question while its node is gone", func(t *testing.T, hubs []*Hub, r *returning) {
			hubs[0].broker.Broker.(*mortal).kill(true)
			for range hubs[1].Emitter().EmitAck(ctx, Everyone, "q").All {
			}
		}, func(s Stats) uint64 { return s.UnrecoveredQuestion }},
		{"what was emitted without the broker", func(t *testing.T, hubs []*Hub, r *returning) {
			mustEmit(t, r.h.Emitter().Local(), Everyone, "x")
			time.Sleep(time.Second)
		}, func(s Stats) uint64 { return s.UnrecoveredQuestion }},
		{"a client that the server has disconnected", func(t *testing.T, hubs []*Hub, r *returning) {
			r.socket().Disconnect(false)
			time.Sleep(time.Second)
		}, func(s Stats) uint64 { return s.UnrecoveredNodeLost }},
		{"a client that has been away for long", func(t *testing.T, hubs []*Hub, r *returning) {
			r.lose()
			time.Sleep(110 * time.Second)
			hubs[2].options.Recovery.Window = 100 * time.Second
		}, func(s Stats) uint64 { return s.UnrecoveredExpired }},
		{"more than there is room for", func(t *testing.T, hubs []*Hub, r *returning) {
			if err := r.socket().Wait(ctx); err != nil { // else its own node would end the session
				t.Fatal(err)
			}
			for range 20 {
				mustEmit(t, hubs[1].Emitter(), SocketID(r.sid), "x", strings.Repeat("x", 1000))
			}
		}, func(s Stats) uint64 { return s.UnrecoveredOverflowed }},
		{"a position that was not given", func(t *testing.T, hubs []*Hub, r *returning) {
			r.offset = "@1"
		}, func(s Stats) uint64 { return s.UnrecoveredUnknown }},
		{"a position after the end", func(t *testing.T, hubs []*Hub, r *returning) {
			r.offset = "@zzzzzzzzzzz"
		}, func(s Stats) uint64 { return s.UnrecoveredGap }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := moving
				o.Recovery.SessionBytes = 10_000
				hubs, kill, _ := mortals(t, 3, o)
				r := comes(t, hubs[0])
				c.before(t, hubs, r)
				kill(0)
				if r.at(hubs[2]).connect(t); r.recovered || c.count(hubs[2].Stats()) != 1 {
					t.Errorf("recovered: %v, %+v", r.recovered, hubs[2].Stats())
				}
			})
		})
	}
}

// TestANodeThatWasGivenUpFindsOut has a node cut off until another one has its session.
func TestANodeThatWasGivenUpFindsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, _ := mortals(t, 2, moving)
		r := comes(t, hubs[0])
		was := r.peer
		kill(0)
		if r.at(hubs[1]).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
		}
		hubs[0].broker.Broker.(*mortal).kill(false)
		<-was.ended // when it saves the record again
		mustEmit(t, hubs[1].Emitter(), SocketID(r.sid), "x", 1)
		r.wantEvents(t, "[x 1]")
	})
}

func TestALogIsNeededForRecoveryWithOne(t *testing.T) {
	for name, b := range map[string]broker.Broker{
		"none":      memory.NewBus().Broker(),
		"too short": memory.NewLoggedBus(broker.LogOptions{Age: 3 * time.Minute}).Broker(),
	} {
		_, err := New(b, Options{Recovery: Recovery{On: true, Log: true}})
		if err == nil || errors.Is(err, broker.ErrNoLog) != (name == "none") {
			t.Errorf("%s: %v", name, err)
		}
		b.Close()
	}
}
