package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/cluster"
	"tether/hub"
	"tether/hubtest"
	"tether/presence"
)

// log notes what all nodes of a cluster have told.
type log struct {
	mu     sync.Mutex
	events []string
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, fmt.Sprintf(format, args...))
}

// want checks what has been told since the last call.
func (l *log) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.events, want) {
		t.Errorf("told %q, want %q", l.events, want)
	}
	l.events = nil
}

// setup makes a hub whose presence is noted.
func (l *log) setup(grace time.Duration, devices bool) hubtest.Setup {
	return func(b broker.Broker) (*hub.Hub, error) {
		h, err := newHub(b)
		if err != nil {
			return nil, err
		}
		o := presence.Options{Grace: grace, OnChange: func(_ context.Context, e presence.Event) {
			l.add("%s %s", map[bool]string{true: "online", false: "offline"}[e.Online], e.User.Name())
		}}
		if devices {
			o.OnDevice = func(_ context.Context, e presence.DeviceEvent) {
				l.add("%s%s of %s", map[bool]string{true: "gone", false: "came"}[e.Gone], map[bool]string{true: " with its node"}[e.NodeGone], e.User.Name())
			}
		}
		_, err = presence.New(h, o)
		return h, err
	}
}

// newHub makes a hub whose clients say in their auth which user they are.
func newHub(b broker.Broker) (*hub.Hub, error) {
	h, err := hub.New(b, hub.Options{Greeting: hub.Greeting{Off: true}, DrainWindow: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	for _, ns := range []string{"/", "/b"} {
		h.Of(ns).OnConnect(func(ctx context.Context, s *hub.Socket) error {
			var who struct{ User string }
			if err := json.Unmarshal(s.Handshake().Auth, &who); err != nil {
				return err
			}
			return s.Register(ctx, who.User)
		})
	}
	return h, nil
}

func as(user string) any { return map[string]string{"user": user} }

func TestTheFirstDeviceAndTheLastAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		nodes := []*hubtest.Node{c.Node(l.setup(0, false)), c.Node(l.setup(0, false)), c.Node(l.setup(0, false))}
		ann := nodes[0].Connect(as("ann"))
		time.Sleep(6 * time.Second) // the cluster is new
		l.want(t, "online ann")
		ann2 := nodes[1].Connect(as("ann"))
		ann.Close()
		time.Sleep(time.Minute)
		l.want(t)
		ann2.Disconnect()
		time.Sleep(9900 * time.Millisecond)
		l.want(t)
		ann3 := nodes[2].Connect(as("ann")) // within the grace
		time.Sleep(time.Minute)
		l.want(t)
		ann3.Close()
		time.Sleep(10100 * time.Millisecond)
		l.want(t, "offline ann")
	})
}

func TestOnlineSaysWhichDevicesUsersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		a, b := c.Node(l.setup(0, false)), c.Node(l.setup(0, false))
		ann, ben := a.Connect(as("ann")), b.Connect(as("ben:*%,"))
		ann2 := b.Connect(as("ann"))
		other := b.Dial(hubtest.Handshake{Namespace: "/b", Auth: as("cat")})
		list, missing, err := presence.Online(t.Context(), a.Hub.Emitter(), hub.User("ann"), hub.User("cat"), hub.User("ben:*%,"), hub.User("ann"))
		if err != nil || len(missing) > 0 {
			t.Fatal(missing, err)
		}
		var got []string
		for _, s := range list {
			var ids []string
			for _, d := range s.Devices {
				ids = append(ids, d.Socket)
				if d.Transport != "websocket" || !d.Since.Equal(time.Now()) || !strings.HasPrefix(d.Socket, d.Node.Tag) {
					t.Errorf("%+v", d)
				}
			}
			slices.Sort(ids)
			got = append(got, fmt.Sprint(s.User, " ", s.Online(), " ", ids))
		}
		two := []string{ann.ID(), ann2.ID()}
		slices.Sort(two)
		want := []string{fmt.Sprint("user:ann true ", two), "user:cat false []", fmt.Sprint("user:ben:*%, true ", []string{ben.ID()}), fmt.Sprint("user:ann true ", two)}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		in, _, err := presence.Online(t.Context(), a.Hub.Of("/b").Emitter(), hub.User("cat"))
		if err != nil || len(in[0].Devices) != 1 || in[0].Devices[0].Socket != other.ID() {
			t.Error(in, err)
		}
	})
}

func TestAWorkerAsksAboutThousands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		a := c.Node(l.setup(0, false))
		c.Node(func(b broker.Broker) (*hub.Hub, error) {
			return hub.New(b, hub.Options{Node: "bare", Logger: slog.New(slog.DiscardHandler)})
		})
		for i := range 100 {
			a.Connect(as(fmt.Sprint("user-", i*100)))
		}
		e := hub.NewEmitter(c.Broker(), hub.EmitterOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		up, ended := make(chan struct{}), make(chan error)
		go func() { ended <- e.Run(ctx, func() { close(up) }) }()
		<-up
		if _, err := e.Members(ctx); err != nil {
			t.Fatal(err)
		}
		users := make([]hub.Target, 10_000)
		for i := range users {
			users[i] = hub.User(fmt.Sprint("user-", i))
		}
		list, missing, err := presence.Online(ctx, e, users...)
		if err != nil || len(missing) != 1 || missing[0].Node.Name != "bare" {
			t.Error(missing, err)
		}
		for i, s := range list {
			if s.Online() != (i%100 == 0) {
				t.Errorf("%v is online: %v", s.User, s.Online())
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestAUserWhoseNodesFailIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		nodes := []*hubtest.Node{c.Node(l.setup(-1, true)), c.Node(l.setup(-1, true)), c.Node(l.setup(-1, true))}
		ann := hub.User("ann")
		nodes[0].Connect(as("ann"))
		c.ExpectOnline(ann)

		began := time.Now()
		go nodes[0].Kill() // it waits until the node has ended, which the others do not
		c.ExpectOffline(ann)
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it took %v", took)
		}
		time.Sleep(10 * time.Second)
		phone := nodes[1].Connect(as("ann"))
		c.ExpectOnline(ann)
		nodes[1].Silence()
		c.ExpectOffline(ann)
		nodes[1].Heal()
		c.ExpectOnline(ann)
		phone.Close()
		c.ExpectOffline(ann)
		time.Sleep(time.Minute)
		c.RefutePresence(ann)
	})
}

func TestADrainIsNoChangeWithinTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		a, b := c.Node(l.setup(0, false)), c.Node(l.setup(0, false))
		users := []hub.Target{hub.User("ann"), hub.User("ben"), hub.User("cat"), hub.User("dan")}
		for _, u := range users {
			a.Connect(as(u.Name()))
			c.ExpectOnline(u)
		}
		a.Drain()
		time.Sleep(5 * time.Second)
		for _, u := range users[:3] {
			b.Connect(as(u.Name()))
		}
		c.ExpectOffline(users[3])
		time.Sleep(time.Minute)
		for _, u := range users {
			c.RefutePresence(u)
		}
		b.Drain() // the last node
		for _, u := range users[:3] {
			c.ExpectOffline(u)
		}
	})
}

func TestAGraceThatEndsWhileTheListOfMembersChangesIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		a := c.Node(l.setup(time.Second, false))
		ann := a.Connect(as("ann"))
		time.Sleep(6*time.Second + time.Millisecond) // no look at the list comes at the instant below
		l.want(t, "online ann")
		ann.Close()
		synctest.Wait()
		time.Sleep(time.Second - time.Nanosecond)
		presence.Of(a.Hub).Outdate()
		l.want(t)
		time.Sleep(time.Second)
		l.want(t, "offline ann")
	})
}

func TestANodeThatHasJustComeEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		a := c.Node(l.setup(time.Second, false))
		begin := time.Now()
		a.Drain()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("there is nobody to tell of, and it took %v", took)
		}
	})
}

// The node that ends last tells of the users that go last, also if another one that ends gives its users away meanwhile.
func TestNodesThatEndTogetherTellWhoHasGone(t *testing.T) {
	var users []string
	for i := range 20 {
		users = append(users, fmt.Sprint("user-", i))
	}
	for apart := range 10 {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			online := make(map[string]bool)
			c := hubtest.NewCluster(t)
			setup := func(b broker.Broker) (*hub.Hub, error) {
				h, err := newHub(b)
				if err != nil {
					return nil, err
				}
				_, err = presence.New(h, presence.Options{Workers: 1, OnChange: func(_ context.Context, e presence.Event) {
					time.Sleep(time.Millisecond) // of fake time: others wait to be told
					mu.Lock()
					defer mu.Unlock()
					online[e.User.Name()] = e.Online
				}})
				return h, err
			}
			nodes := []*hubtest.Node{c.Node(setup), c.Node(setup)}
			for i, u := range users {
				nodes[i%2].Connect(as(u))
			}
			time.Sleep(10 * time.Second)
			var ends sync.WaitGroup
			ends.Go(nodes[0].Drain)
			time.Sleep(time.Duration(apart) * time.Millisecond)
			ends.Go(nodes[1].Drain)
			ends.Wait()
			for _, u := range users {
				if is, told := online[u]; !told || is {
					t.Errorf("%d ms apart: %s came and went, and was told to be online: %v, %v", apart, u, told, is)
				}
			}
		})
	}
}

const beatsTake = 900 * time.Millisecond

// slowToJoin is the broker of a node whose beats take their time, and nothing else does.
type slowToJoin struct{ broker.Broker }

func (s slowToJoin) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if msgs[0].Subject == cluster.MembersSubject("tether") {
		time.Sleep(beatsTake) // of fake time
	}
	return s.Broker.Publish(ctx, msgs...)
}

// A node that begins answers what others ask before they know that it takes part. What it says counts when they do.
func TestUsersOfANodeThatIsNotOnTheListYetStayOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		c.Node(l.setup(-1, true))
		c.Node(l.setup(-1, true))
		other := c.Node(l.setup(-1, true))
		time.Sleep(10 * time.Second)
		slow := c.Node(func(b broker.Broker) (*hub.Hub, error) { return l.setup(-1, true)(slowToJoin{b}) })
		var want []string
		for i := range 16 {
			user := fmt.Sprint("user-", i)
			want = append(want, "came of "+user, "online "+user)
			slow.Connect(as(user))
		}
		time.Sleep(beatsTake + 10*time.Millisecond) // it takes part, and nobody knows
		other.Drain()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		slices.Sort(want)
		slices.Sort(l.events)
		if !slices.Equal(l.events, want) {
			t.Errorf("told %q, want %q", l.events, want)
		}
	})
}
