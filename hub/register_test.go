package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
)

func TestToRegisterTwiceIsToRegisterOnce(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	other, o := connect(t, h)
	for range 2 {
		for _, s := range []*Socket{s, o} {
			if err := s.Register(t.Context(), "1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	greeting := `42["/ops/connection-success",{"message":"Successfully connected"}]`
	p.want(greeting)
	other.want(greeting)
	mustEmit(t, h.Emitter(), User("1"), "x")
	p.want(`42["x"]`)
	p.wantNothing()
	s.Leave(User("1"))
	if got := s.Users(); got != nil {
		t.Errorf("users are %v after leaving", got)
	}
	if err := s.Register(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	p.want(greeting)
}

func TestRegistrationsOfSeveralKinds(t *testing.T) {
	h := alone(t, Options{Greeting: Greeting{Event: "hi", Message: "there"}})
	p, s := connect(t, h)
	admin := Kind("admin-user").User("7")
	ctx := t.Context()
	if err := errors.Join(s.Join(ctx, User("7")), s.RegisterAs(ctx, admin), s.Register(ctx, "7"), s.Register(ctx, "8")); err != nil {
		t.Fatal(err)
	}
	p.want(`42["hi",{"message":"there"}]`, `42["hi",{"message":"there"}]`, `42["hi",{"message":"there"}]`)
	if got := s.Users(); !slices.Equal(got, []Target{User("7"), admin, User("8")}) {
		t.Errorf("users are %v", got)
	}
	mustEmit(t, h.Emitter(), admin, "x")
	p.want(`42["x"]`)
	p.wantNothing()
	if err := s.RegisterAs(ctx, Everyone); err == nil {
		t.Error("registered as everyone")
	}
}

func TestTheGreetingCanBeTurnedOff(t *testing.T) {
	h := alone(t, Options{Greeting: Greeting{Off: true}})
	p, s := connect(t, h)
	if err := s.Register(t.Context(), "7"); err != nil {
		t.Fatal(err)
	}
	p.wantNothing()
}

func TestARegistrationThatFailsLeavesNothing(t *testing.T) {
	bus := memory.NewBus()
	h := start(t, unwilling{bus.Broker()}, Options{})
	p, s := connect(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Register(ctx, "unwilling"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if got := s.Rooms(); len(got) != 1 {
		t.Errorf("rooms are %v", got)
	}
	p.wantNothing()
	if err := s.Join(ctx, Room("room:unwilling")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if got := s.Rooms(); len(got) != 2 {
		t.Errorf("rooms are %v after a join that was not in time", got)
	}
}

// unwilling is a broker that does not subscribe some subjects.
type unwilling struct{ broker.Broker }

func (u unwilling) Subscribe(ctx context.Context, subjects ...string) []error {
	var errs []error
	for i, s := range subjects {
		if strings.HasSuffix(s, "unwilling") {
			if errs == nil {
				errs = make([]error, len(subjects))
			}
			errs[i] = broker.ErrUnavailable
		} else if err := u.Broker.Subscribe(ctx, s); err != nil {
			return broker.Each(len(subjects), err[0])
		}
	}
	return errs
}

func TestNewDevicesAreRefused(t *testing.T) {
	hubs := several(t, 2, Options{Devices: Devices{Max: 2, RefuseNew: true}})
	for _, h := range hubs {
		h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Register(ctx, "1") })
	}
	a, _ := connect(t, hubs[0])
	connect(t, hubs[1])
	p := dial(t, hubs[0])
	p.say("0")
	p.want(`44{"message":"too many devices"}`)
	a.end(ReasonTransportClose)
	p.say("0")
	s := p.joined("/")
	if err := s.Register(t.Context(), "1"); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := s.Register(t.Context(), "2"); err != nil {
		t.Errorf("another user: %v", err)
	}
}

func TestTheOldestDevicesAreEnded(t *testing.T) {
	hubs := several(t, 2, Options{Devices: Devices{Max: 2}})
	var peers []*peer
	for i := range 5 {
		p, s := connect(t, hubs[i%2])
		if err := s.Register(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		p.next()
		peers = append(peers, p)
	}
	for i, p := range peers {
		if i < 3 {
			p.want("41")
			<-p.ended
		} else {
			p.wantNothing()
		}
	}
}

// However registrations race, and however the clocks of the nodes differ, no more than Max stay.
func TestRacingDevicesDoNotPassTheLimit(t *testing.T) {
	for round := range 30 {
		limit := 1 + round%3
		refuse := round/3%2 == 1
		hubs := several(t, 3, Options{Devices: Devices{Max: limit, RefuseNew: refuse}})
		var sockets []*Socket
		for i := range 9 {
			_, s := connect(t, hubs[i%3])
			sockets = append(sockets, s)
		}
		var wg sync.WaitGroup
		for i, s := range sockets {
			wg.Go(func() {
				err := s.Register(t.Context(), "1")
				if err != nil && !errors.Is(err, ErrTooManyDevices) && !errors.Is(err, ErrDisconnected) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		stay := 0
		for _, s := range sockets {
			if s.Connected() && len(s.Users()) == 1 {
				stay++
			}
		}
		if stay > limit {
			t.Errorf("limit %d, refuse %v: %d devices stay", limit, refuse, stay)
		}
		if stay == 0 && !refuse {
			t.Error("no device stays")
		}
	}
}

// Of two that would each disconnect the other only the older goes, whichever is through first.
func TestAnEvictionIsOnlyForTheOlder(t *testing.T) {
	h := alone(t, Options{})
	_, s := connect(t, h)
	room := s.ns.subject + "user:1"
	for _, c := range []struct {
		name  string
		stamp int64
		id    string
		want  bool
	}{
		{"by an older one", 4, "z", false},
		{"by one of the same time, with a lower ID", 5, "!", false},
		{"by itself", 5, s.ID(), false},
		{"by one of the same time, with a higher ID", 5, "~", true},
		{"by a newer one", 6, "!", true},
	} {
		cs := h.devices.open(s, room, 5)
		if _, err := s.join(t.Context(), 5, User("1")); err != nil {
			t.Fatal(err)
		}
		if got := h.devices.evict(s, room, c.stamp, c.id); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if _, err := h.devices.decide(cs, Devices{Max: 1}); errors.Is(err, ErrTooManyDevices) != c.want {
			t.Errorf("%s, and what it hears: %v", c.name, err)
		}
		h.devices.close(cs)
		s.Leave(User("1"))
	}
	if h.devices.evict(s, room, 9, "z") {
		t.Error("a socket that is not registered has to go")
	}
	before := h.Stats().Malformed
	for _, body := range []string{"", "\x80", "\x02", "\x02\x01", "\x02\x01x", "\x02\x01x\x01", "\x02\x01x\x01yz"} {
		h.evictIfOlder(s, []byte(body))
	}
	if got := h.Stats().Malformed - before; got != 7 || !s.Connected() {
		t.Errorf("%d of 7 bodies are malformed", got)
	}
}

func TestAClaimThatIsThroughIsAhead(t *testing.T) {
	id := func(i int) string { return fmt.Sprintf("%020d", i) }
	for _, c := range []struct {
		name   string
		own    int64
		others map[string]claim
		limit  Devices
		err    error
		out    []string
	}{
		{"alone", 5, nil, Devices{Max: 1, RefuseNew: true}, nil, nil},
		{"first of two", 5, map[string]claim{id(1): {6, false}}, Devices{Max: 1, RefuseNew: true}, nil, nil},
		{"second of two", 5, map[string]claim{id(1): {4, false}}, Devices{Max: 1, RefuseNew: true}, ErrTooManyDevices, nil},
		{"clock is behind", 5, map[string]claim{id(1): {9, true}}, Devices{Max: 1, RefuseNew: true}, ErrTooManyDevices, nil},
		{"clock is behind, and a third", 5, map[string]claim{id(1): {9, true}, id(2): {7, false}}, Devices{Max: 2, RefuseNew: true}, ErrTooManyDevices, nil},
		{"same stamp", 5, map[string]claim{id(1): {5, false}}, Devices{Max: 1, RefuseNew: true}, ErrTooManyDevices, nil},
		{"end the oldest", 5, map[string]claim{id(1): {9, true}, id(2): {3, true}}, Devices{Max: 2}, nil, []string{id(2)}},
		{"newer ones race", 5, map[string]claim{id(1): {9, false}, id(2): {8, false}}, Devices{Max: 2}, ErrTooManyDevices, nil},
		{"one that races is older, and one that is through", 5, map[string]claim{id(1): {4, false}, id(2): {7, true}}, Devices{Max: 1}, nil, []string{id(2), id(1)}},
	} {
		h := alone(t, Options{})
		_, s := connect(t, h)
		cs := h.devices.open(s, "room", c.own)
		cs.id = "z" + cs.id[1:] // behind the others
		cs.others = c.others
		out, err := h.devices.decide(cs, c.limit)
		if !errors.Is(err, c.err) || !slices.Equal(out, c.out) {
			t.Errorf("%s: got %v, %v", c.name, out, err)
		}
		h.devices.close(cs)
	}
}
