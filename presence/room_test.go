package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/hub"
	"tether/hubtest"
	"tether/presence"
)

var tea = hub.Room("tea")

// guest is what a client says in its auth: who it is in the room, and whether it watches.
type guest struct {
	Name  string `json:"name,omitempty"`
	Data  any    `json:"data,omitempty"`
	Watch bool   `json:"watch,omitempty"`
	Late  string `json:"late,omitempty"` // refused with this
}

// roomSetup makes a hub whose clients enter and watch the room when they connect, and later when they ask for it.
func roomSetup(o presence.Options) hubtest.Setup {
	return func(b broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(b, hub.Options{Greeting: hub.Greeting{Off: true}, DrainWindow: -1, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		o.Logger = slog.New(slog.DiscardHandler)
		p, err := presence.New(h, o)
		if err != nil {
			return nil, err
		}
		be := func(ctx context.Context, s *hub.Socket, g guest) error {
			if g.Watch {
				if err := p.WatchRoom(ctx, s, tea); err != nil {
					return err
				}
			}
			if g.Name == "" {
				return nil
			}
			return p.Enter(ctx, s, tea, g.Name, g.Data)
		}
		ns := h.Of("/")
		ns.OnConnect(func(ctx context.Context, s *hub.Socket) error {
			var g guest
			if err := json.Unmarshal(s.Handshake().Auth, &g); err != nil {
				return err
			}
			if err := be(ctx, s, g); err != nil || g.Late == "" {
				return err
			}
			return hub.Refuse(g.Late, nil)
		})
		ns.On("be", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
			var g guest
			if err := m.Bind(&g); err != nil {
				return err
			}
			return errors.Join(be(ctx, s, g), m.Ack())
		})
		ns.On("leave", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
			s.Leave(tea)
			return m.Ack()
		})
		ns.On("unwatch", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
			p.UnwatchRoom(s, tea)
			return m.Ack()
		})
		return h, nil
	}
}

// expectRoom waits for the next change of the room that a client is told of. Members are written name or name=data.
func expectRoom(t *testing.T, c *hubtest.Client, want string) {
	t.Helper()
	var change presence.RoomChange
	c.Next().Decode(0, &change)
	if got := roomText(change); got != want {
		t.Fatalf("the client was told %q, want %q", got, want)
	}
}

func roomText(c presence.RoomChange) string {
	var words []string
	if c.Whole {
		words = append(words, "whole")
	}
	for _, m := range c.Came {
		text := "+" + m.Name
		if m.Data != nil {
			text += "=" + string(m.Data)
		}
		words = append(words, text)
	}
	for _, name := range c.Left {
		words = append(words, "-"+name)
	}
	if c.Unknown != nil && (len(c.Unknown) > 0 || !c.Whole) {
		words = append(words, fmt.Sprint("unknown", c.Unknown))
	}
	return strings.Join(words, " ")
}

func TestThoseWhoWatchARoomAreToldWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		ann := a.Connect(guest{Name: "ann", Data: map[string]int{"mood": 1}})
		ben := b.Connect(guest{Watch: true})
		expectRoom(t, ben, `whole +ann={"mood":1}`)
		ben.Call("be", guest{Name: "ben"}).Expect()
		expectRoom(t, ben, "+ben")
		ann.RefuteAny() // it does not watch

		phone := b.Connect(guest{Name: "ann", Data: map[string]int{"mood": 2}}) // one member on two devices
		expectRoom(t, ben, `+ann={"mood":2}`)
		phone.Call("leave").Expect()
		expectRoom(t, ben, `+ann={"mood":1}`) // the other device is still there
		ann.Call("be", guest{Name: "anna"}).Expect()
		expectRoom(t, ben, "+anna -ann")
		ann.Call("leave").Expect()
		expectRoom(t, ben, "-anna")
		ben.Call("unwatch").Expect()
		ann.Call("be", guest{Name: "ann"}).Expect()
		time.Sleep(time.Minute)
		ben.RefuteAny()
	})
}

func TestARoomIsForgottenOnAllNodesWithTheLastThatWatchesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		ben, eve := b.Connect(guest{Watch: true}), b.Connect(guest{Watch: true})
		expectRoom(t, ben, "whole")
		expectRoom(t, eve, "whole")
		rooms := func() [2]int { return [2]int{presence.Of(a.Hub).Rooms(), presence.Of(b.Hub).Rooms()} }
		ben.Call("unwatch").Expect()
		time.Sleep(time.Second)
		if got := rooms(); got != [2]int{1, 2} {
			t.Fatalf("the nodes know of %v rooms while one client watches, want 1, and 2 where it is", got)
		}
		eve.Call("unwatch").Expect()
		time.Sleep(time.Second)
		if got := rooms(); got != [2]int{} {
			t.Errorf("the nodes know of %v rooms that nobody is in and nobody watches", got)
		}
	})
}

// slow is a broker that takes up to four milliseconds for each call.
type slow struct{ broker.Broker }

func (s slow) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	time.Sleep(rand.N(4 * time.Millisecond))
	return s.Broker.Publish(ctx, msgs...)
}

// A node that is about to be told that another one does not watch any more may have been asked by it again.
func TestOneThatWatchesAgainAtOnceIsToldOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		setup := func(b broker.Broker) (*hub.Hub, error) {
			return roomSetup(presence.Options{RoomInterval: time.Millisecond})(slow{b})
		}
		a, b := c.Node(setup), c.Node(setup)
		time.Sleep(2 * time.Second)
		ann, ben := a.Connect(guest{Name: "ann"}), b.Connect(guest{Watch: true})
		expectRoom(t, ben, "whole +ann")
		for i := range 200 {
			ben.Emit("unwatch")
			ann.Emit("be", guest{Name: "ann", Data: i})
			time.Sleep(rand.N(8 * time.Millisecond))
			ben.Emit("be", guest{Watch: true})
			time.Sleep(time.Duration(i%5) * time.Millisecond)
			ann.Call("be", guest{Name: "ann", Data: 1000 + i}).Expect()
			for last := ""; last != fmt.Sprint(1000+i); {
				var change presence.RoomChange
				ben.Next().Decode(0, &change)
				if len(change.Came) > 0 {
					last = string(change.Came[0].Data)
				}
			}
		}
	})
}

func TestWhoIsRefusedWasNeverInTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		ann := node.Connect(guest{Watch: true})
		expectRoom(t, ann, "whole")
		node.ExpectRefusal(guest{Name: "ben", Watch: true, Late: "not you"}, "not you")
		time.Sleep(time.Minute)
		ann.RefuteAny()
	})
}

func TestADeviceThatComesBackWithinTheGraceHasNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b, d := c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		watcher := d.Connect(guest{Watch: true})
		expectRoom(t, watcher, "whole")
		ann := a.Connect(guest{Name: "ann"})
		a.Connect(guest{Name: "ben"})
		a.Connect(guest{Name: "cat"})
		expectRoom(t, watcher, "+ann +ben +cat")

		ann.Close()
		time.Sleep(9 * time.Second)
		b.Connect(guest{Name: "ann"})
		time.Sleep(time.Minute)
		watcher.RefuteAny()

		go a.Kill() // it waits until the node has ended, which the others do not
		time.Sleep(6 * time.Second)
		b.Connect(guest{Name: "ben"})
		time.Sleep(8 * time.Second)
		watcher.Refute("presence")
		time.Sleep(3 * time.Second)
		expectRoom(t, watcher, "-cat")
	})
}

func TestANodeThatDoesNotAnswerIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		named := func(name string) hubtest.Setup {
			return func(b broker.Broker) (*hub.Hub, error) {
				h, err := hub.New(b, hub.Options{Node: name, Greeting: hub.Greeting{Off: true}, DrainWindow: -1, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					return nil, err
				}
				p, err := presence.New(h, presence.Options{Logger: slog.New(slog.DiscardHandler)})
				h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
					return errors.Join(p.WatchRoom(ctx, s, tea), p.Enter(ctx, s, tea, "who is on "+name, nil))
				})
				return h, err
			}
		}
		a, b := c.Node(named("a")), c.Node(named("b"))
		time.Sleep(2 * time.Second)
		b.Connect(nil)
		b.Silence()
		a.Connect(nil)
		time.Sleep(time.Second)
		ann := a.Connect(nil)
		expectRoom(t, ann, "whole +who is on a unknown[b]")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		list, missing, err := presence.InRoom(ctx, a.Hub.Emitter(), tea)
		if err != nil || len(list) != 1 || len(missing) != 1 || missing[0].Node.Name != "b" {
			t.Error(list, missing, err)
		}
		time.Sleep(4 * time.Second)
		expectRoom(t, ann, "unknown[]") // it is off the list: its clients are gone, too
		b.Heal()
		time.Sleep(time.Second)
		list, missing, err = presence.InRoom(t.Context(), a.Hub.Emitter(), tea)
		if err != nil || len(list) > 2 || len(missing) > 0 {
			t.Error(list, missing, err)
		}
	})
}

func TestWhatChangesInAnIntervalIsOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		watcher := b.Connect(guest{Watch: true})
		expectRoom(t, watcher, "whole")
		time.Sleep(time.Second)
		before := a.Hub.Stats().Questions
		var clients []*hubtest.Client
		for i := range 300 {
			clients = append(clients, a.Connect(guest{Name: fmt.Sprint(1000 + i)}))
		}
		var change presence.RoomChange
		watcher.Expect("presence", &change)
		if len(change.Came) != 300 {
			t.Errorf("%d members came", len(change.Came))
		}
		asked := a.Hub.Stats().Questions
		asked.Complete -= before.Complete
		if asked.Complete > 1 {
			t.Errorf("it took %d messages to tell another node", asked.Complete)
		}
		for _, k := range clients {
			k.Call("leave").Expect()
		}
		watcher.Expect("presence", &change)
		if len(change.Left) != 300 {
			t.Errorf("%d members left", len(change.Left))
		}
		watcher.RefuteAny()
	})
}

func TestOfARoomThatNobodyWatchesNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		ann, ben := a.Connect(guest{Name: "ann"}), b.Connect(guest{})
		busy := func(what string, want bool) {
			t.Helper()
			before := a.Hub.Stats().Questions
			ann.Call("leave").Expect()
			ann.Call("be", guest{Name: "ann"}).Expect()
			time.Sleep(time.Minute)
			if after := a.Hub.Stats().Questions; (after != before) != want {
				t.Errorf("%s: questions were %+v, and are %+v", what, before, after)
			}
		}
		busy("nobody watches", false)
		ben.Call("be", guest{Watch: true}).Expect()
		time.Sleep(time.Second)
		busy("somebody watches", true)
		quiet := a.Hub.Stats().Questions
		time.Sleep(time.Hour)
		if after := a.Hub.Stats().Questions; after != quiet {
			t.Errorf("while nobody came or went, questions were %+v, and are %+v", quiet, after)
		}
		ben.Call("unwatch").Expect()
		time.Sleep(time.Second) // the other node is told
		busy("nobody watches any more", false)
	})
}

func TestALargeRoomComesInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		const members = 400
		data := strings.Repeat("x", 900)
		var clients []*hubtest.Client
		for i := range members {
			clients = append(clients, a.Connect(guest{Name: fmt.Sprint(1000 + i), Data: data}))
		}
		watcher := b.Connect(guest{Watch: true})
		here := make(map[string]bool)
		parts := 0
		for ; len(here) < members; parts++ {
			var change presence.RoomChange
			watcher.Expect("presence", &change)
			if change.Whole != (parts == 0) {
				t.Fatalf("part %d: whole %v", parts, change.Whole)
			}
			size := 0
			for _, m := range change.Came {
				here[m.Name] = true
				size += len(m.Data)
			}
			if size > 48<<10 {
				t.Errorf("a part has %d bytes", size)
			}
			if parts == 2 { // one that has been sent, and one that has not
				clients[0].Call("leave").Expect()
				clients[members-1].Call("leave").Expect()
				time.Sleep(2 * time.Second)
			}
		}
		var change presence.RoomChange
		watcher.Expect("presence", &change)
		if len(change.Left) != 2 {
			t.Errorf("left: %v", change.Left)
		}
		list, missing, err := presence.InRoom(t.Context(), b.Hub.Emitter(), tea)
		if err != nil || len(missing) > 0 || len(list) != members-2 || list[0].Name != "1001" {
			t.Error(len(list), missing, err)
		}
	})
}

func TestTheLimitsOfARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := roomSetup(presence.Options{})(memory.NewBus().Broker())
		if err != nil {
			t.Fatal(err)
		}
		p := presence.Of(h)
		for _, c := range []struct {
			room hub.Target
			name string
			data any
			want string
		}{
			{tea, "ann", strings.Repeat("x", 1023), "data has 1025 bytes as JSON, and RoomDataBytes is 1024"},
			{tea, strings.Repeat("x", 257), nil, "a name has 1 to 256 bytes, this one has 257"},
			{tea, "", nil, "this one has 0"},
			{hub.User("ann"), "ann", nil, "no such target"},
			{hub.Everyone, "ann", nil, "no such target"},
			{hub.Target{}, "ann", nil, "no such target"},
			{tea, "ann", func() {}, "unsupported type"},
		} {
			if err := p.Enter(t.Context(), nil, c.room, c.name, c.data); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
		}
		if err := p.WatchRoom(t.Context(), nil, hub.User("ann")); !errors.Is(err, hub.ErrTarget) {
			t.Error(err)
		}
		if _, _, err := presence.InRoom(t.Context(), h.Emitter(), hub.Everyone); !errors.Is(err, hub.ErrTarget) {
			t.Error(err)
		}
		node := hubtest.Start(t, roomSetup(presence.Options{}))
		time.Sleep(2 * time.Second)
		longest := guest{Name: strings.Repeat("x", 256), Data: strings.Repeat("x", 1022)}
		node.Connect(longest)
		expectRoom(t, node.Connect(guest{Watch: true}), "whole +"+longest.Name+`="`+longest.Data.(string)+`"`)
	})
}

func TestRoomOptionsAreChecked(t *testing.T) {
	for _, c := range []struct {
		o    presence.Options
		want string
	}{
		{presence.Options{RoomDataBytes: 16384}, ""},
		{presence.Options{RoomDataBytes: 16385}, "RoomDataBytes is 16385: it is 1 to 16384, or 0 for the default"},
		{presence.Options{RoomDataBytes: -1}, "RoomDataBytes is -1"},
		{presence.Options{RoomInterval: -1}, "RoomInterval is -1ns"},
		{presence.Options{Workers: -1}, "Workers is -1"},
	} {
		_, err := roomSetup(c.o)(memory.NewBus().Broker())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
}

func TestASocketThatHasEndedCannotEnter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sockets := make(chan *hub.Socket, 1)
		node := hubtest.Start(t, func(b broker.Broker) (*hub.Hub, error) {
			h, err := roomSetup(presence.Options{})(b)
			if err == nil {
				h.Of("/").OnConnect(func(_ context.Context, s *hub.Socket) error { sockets <- s; return nil })
			}
			return h, err
		})
		c := node.Connect(guest{})
		s := <-sockets
		c.Close()
		synctest.Wait()
		p := presence.Of(node.Hub)
		if err := p.Enter(t.Context(), s, tea, "ann", nil); !errors.Is(err, hub.ErrDisconnected) {
			t.Error(err)
		}
		if err := p.WatchRoom(t.Context(), s, tea); !errors.Is(err, hub.ErrDisconnected) {
			t.Error(err)
		}
		list, _, err := presence.InRoom(t.Context(), node.Hub.Emitter(), tea)
		if err != nil || len(list) > 0 {
			t.Error(list, err)
		}
	})
}
