package hubtest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
)

// recovering is an application whose clients may come back.
func recovering(b broker.Broker) (*hub.Hub, error) {
	h, err := hub.New(b, hub.Options{Recovery: hub.Recovery{On: true, Window: time.Minute}})
	if err != nil {
		return nil, err
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "42") })
	return h, nil
}

func TestAClientComesBackToItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := NewCluster(t)
		a, b := cluster.Node(recovering), cluster.Node(recovering)
		emit := func(v int) {
			if _, err := b.Hub.Emitter().Emit(t.Context(), hub.User("42"), "x", v); err != nil {
				t.Fatal(err)
			}
		}
		c := a.Connect(map[string]any{"recovery": true})
		id := c.ID()
		c.Expect("/ops/connection-success")
		emit(1)
		c.Expect("x", 1)

		c.Close()
		emit(2)
		if !c.ComeBack(a) || c.ID() != id {
			t.Errorf("not recovered on its node, ID %s, was %s", c.ID(), id)
		}
		c.Expect("x", 2)
		emit(3)
		c.Expect("x", 3)

		emit(4)
		if !c.ComeBack(b) || c.ID() != id { // from a link that seems to be alive
			t.Errorf("not recovered on the other node, ID %s, was %s", c.ID(), id)
		}
		c.Expect("x", 4)
		c.RefuteAny()

		c.Close()
		emit(5)
		time.Sleep(2 * time.Minute)
		if c.ComeBack(b) || c.ID() == id {
			t.Error("recovered after the window")
		}
		c.Expect("/ops/connection-success")
		c.RefuteAny()
	})
}

func TestAClientThatHasNotAskedHasNothingToComeBackTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := Start(t, recovering)
		c := node.Connect(nil)
		c.Expect("/ops/connection-success", map[string]string{"message": "Successfully connected"})
		c.Close()
		if c.ComeBack(node) {
			t.Error("recovered")
		}
		c.Expect("/ops/connection-success", map[string]string{"message": "Successfully connected"})
	})
}
