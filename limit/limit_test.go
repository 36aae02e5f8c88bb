package limit_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
	"tether/limit"
)

func TestWhatItDependsOn(t *testing.T) { deptest.OnHub(t, "tether/limit") }

// rig is a cluster whose nodes count the events that come through.
type rig struct {
	*hubtest.Cluster
	o       limit.Options
	through atomic.Int64
	all     []*limit.Limiter
}

func (r *rig) setup(b broker.Broker) (*hub.Hub, error) {
	h, err := hub.New(b, hub.Options{Greeting: hub.Greeting{Off: true}})
	if err != nil {
		return nil, err
	}
	l, err := limit.New(h, r.o)
	if err != nil {
		return nil, err
	}
	r.all = append(r.all, l)
	root := h.Of("/")
	root.OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "42") })
	root.UseEvent(l.Handle)
	root.On("do", func(_ context.Context, _ *hub.Socket, m *hub.Message) error {
		r.through.Add(1)
		return m.Ack("ok")
	})
	return h, nil
}

func TestAUserMaySendSoMuchOnAllDevicesOfANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{Cluster: hubtest.NewCluster(t), o: limit.Options{Rate: 10, Burst: 5, Event: "slow down"}}
		n := r.Node(r.setup)
		phone, laptop := n.Connect(nil), n.Connect(nil)
		for range 3 {
			phone.Call("do").Expect("ok")
		}
		for range 2 {
			laptop.Call("do").Expect("ok")
		}
		laptop.Call("do").ExpectRefusal("too many events", map[string]float64{"retryAfter": 0.1})
		phone.Emit("do")
		phone.Emit("do")
		phone.RefuteAny() // a second has not passed since the laptop was refused
		time.Sleep(100 * time.Millisecond)
		phone.Call("do").Expect("ok")
		time.Sleep(time.Second)
		for range 7 {
			phone.Emit("do")
		}
		phone.Expect("slow down", map[string]any{"message": "too many events", "data": map[string]float64{"retryAfter": 0.1}})
		phone.RefuteAny()
		if got := r.through.Load(); got != 3+2+1+5 || r.all[0].Refused() != 1+2+2 {
			t.Errorf("%d came through, %d were refused", got, r.all[0].Refused())
		}
	})
}

// TestTheClusterKeepsToTheLimitWithinTheErrorThatIsStated, and lets through what it says.
func TestTheClusterKeepsToTheLimitWithinTheErrorThatIsStated(t *testing.T) {
	for _, nodes := range []int{1, 2, 4} {
		synctest.Test(t, func(t *testing.T) {
			const rate, burst, seconds = 20, 10, 60
			r := &rig{Cluster: hubtest.NewCluster(t), o: limit.Options{Rate: rate, Burst: burst}}
			var clients []*hubtest.Client
			for range nodes {
				n := r.Node(r.setup)
				clients = append(clients, n.Connect(nil))
			}
			time.Sleep(3 * time.Second)
			r.through.Store(0)
			for range seconds * 50 {
				for _, c := range clients {
					c.Emit("do")
				}
				time.Sleep(time.Second / 50)
			}
			synctest.Wait()
			most := burst + rate*seconds + (nodes-1)*(burst+2*rate)
			got := int(r.through.Load())
			if got > most || got < rate*seconds*9/10 {
				t.Errorf("%d nodes: %d came through in %d s, no more than %d may", nodes, got, seconds, most)
			}
			t.Logf("%d nodes: %d came through, %d may", nodes, got, most)
		})
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for _, o := range []limit.Options{{}, {Rate: -1}, {Rate: 1, Burst: -1}, {Rate: 1, Interval: -1}} {
		h, err := hub.New(hubtest.NewCluster(t).Broker(), hub.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := limit.New(h, o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
