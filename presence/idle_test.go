package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
	"tether/presence"
)

// counting is a broker that counts what a hub has it do: messages that are published, and subscriptions that begin or end.
type counting struct {
	broker.Broker
	calls *atomic.Int64
}

func (c counting) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	c.calls.Add(int64(len(msgs)))
	return c.Broker.Publish(ctx, msgs...)
}

func (c counting) Subscribe(ctx context.Context, subjects ...string) []error {
	c.calls.Add(int64(len(subjects)))
	return c.Broker.Subscribe(ctx, subjects...)
}

func (c counting) Unsubscribe(ctx context.Context, subjects ...string) []error {
	c.calls.Add(int64(len(subjects)))
	return c.Broker.Unsubscribe(ctx, subjects...)
}

// idleSetup makes a hub whose clients are users, and stand in a room that they watch. What it has the broker do is counted.
func idleSetup(calls *atomic.Int64) hubtest.Setup {
	return func(b broker.Broker) (*hub.Hub, error) {
		h, err := newHub(counting{b, calls})
		if err != nil {
			return nil, err
		}
		p, err := presence.New(h, presence.Options{
			OnChange: func(context.Context, presence.Event) {}, OnDevice: func(context.Context, presence.DeviceEvent) {},
		})
		if err != nil {
			return nil, err
		}
		h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { // behind that of newHub
			var who struct{ User string }
			if err := json.Unmarshal(s.Handshake().Auth, &who); err != nil {
				return err
			}
			if err := p.WatchRoom(ctx, s, tea); err != nil {
				return err
			}
			return p.Enter(ctx, s, tea, who.User, nil)
		})
		return h, nil
	}
}

// delivered is how many events the clients of nodes were sent.
func delivered(nodes []*hubtest.Node) (n uint64) {
	for _, one := range nodes {
		n += one.Hub.Stats().Delivered
	}
	return n
}

// TestNothingIsSentWhileNobodyComesOrGoes: in ten minutes the broker gets the beats of the nodes, one a second each, and
// nothing else, with no user online as with a thousand.
func TestNothingIsSentWhileNobodyComesOrGoes(t *testing.T) {
	const nodes, minutes = 3, 10
	for _, users := range []int{0, 1000} {
		t.Run(fmt.Sprint(users, " users"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int64
				c := hubtest.NewCluster(t)
				var on []*hubtest.Node
				for range nodes {
					on = append(on, c.Node(idleSetup(&calls)))
				}
				clients := make([]*hubtest.Client, users)
				for i := range clients {
					clients[i] = on[i%nodes].Connect(as(fmt.Sprint("user ", i)))
				}
				const settled = 2*time.Minute + 500*time.Millisecond // between two beats
				time.Sleep(settled)
				before, told := calls.Load(), delivered(on)
				time.Sleep(minutes * time.Minute)
				if got, want := calls.Load()-before, int64(nodes*minutes*60); got != want {
					t.Errorf("the broker got %d messages and subscriptions, want the %d beats", got, want)
				}
				if later := delivered(on) - told; later > 0 || told < uint64(users) {
					t.Errorf("clients were told %d changes of the room at first, and %d later", told, later)
				}
				if users == 0 {
					return
				}
				before = calls.Load()
				clients[0].Close() // that this is counted shows that the rest would have been
				time.Sleep(time.Minute)
				if got := calls.Load() - before; got <= nodes*60 {
					t.Errorf("a user has gone, and the broker got %d messages, no more than the beats", got)
				}
			})
		})
	}
}
