package docs

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/event"
	"tether/hub"
	"tether/hubtest"
)

// The code of testing.md.

type order struct {
	ID    int    `json:"id"`
	Title string `json:"title"`
}

type credentials struct {
	Token string `json:"token"`
}

var (
	placeOrder  = event.NewCall[order, order]("place order")
	orderPlaced = event.New[order]("order placed")
)

func newHub(b broker.Broker) (*hub.Hub, error) {
	h, err := hub.New(b, hub.Options{Greeting: hub.Greeting{Off: true}})
	if err != nil {
		return nil, err
	}
	h.Of("/").OnConnect(connect)
	placeOrder.Handle(h.Of("/"), place)
	return h, nil
}

// connect stands for a hook that opens a token: here it is the user's ID.
func connect(ctx context.Context, s *hub.Socket) error {
	var auth credentials
	if json.Unmarshal(s.Handshake().Auth, &auth) != nil || auth.Token == "" {
		return hub.Refuse("unauthorized", nil)
	}
	s.ExpireAt(time.Now().Add(10 * time.Minute))
	return s.Register(ctx, auth.Token)
}

func place(ctx context.Context, s *hub.Socket, o order) (order, error) {
	if o.Title == "" {
		return order{}, hub.Refuse("an order needs a title", nil)
	}
	o.ID = 1
	_, err := orderPlaced.Emit(ctx, s.Broadcast(), s.Users()[0], o)
	return o, err
}

func TestAnOrderIsToldToTheUsersOtherDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, newHub)
		phone := node.Connect(credentials{Token: "alice"})
		laptop := node.Connect(credentials{Token: "alice"})

		phone.Call("place order", order{Title: "tea"}).Expect(order{ID: 1, Title: "tea"})
		laptop.Expect("order placed", order{ID: 1, Title: "tea"})
		phone.Refute("order placed")
	})
}

func TestAConnectHookRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, newHub)
		node.ExpectRefusal(nil, "unauthorized")

		alice := node.Connect(credentials{Token: "alice"})
		time.Sleep(10*time.Minute + time.Second) // takes no time in a bubble
		alice.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

func TestAHandlerRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := hubtest.Start(t, newHub).Connect(credentials{Token: "alice"})
		alice.Call("place order", order{}).ExpectRefusal("an order needs a title")
	})
}

func TestAnEmitReachesItsUserOnWhicheverNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := hubtest.NewCluster(t)
		a, b := cluster.Node(newHub), cluster.Node(newHub)
		alice := b.Connect(credentials{Token: "alice"})

		receipt, err := orderPlaced.Emit(t.Context(), a.Hub.Emitter(), hub.User("alice"), order{ID: 7, Title: "milk"})
		if err != nil || receipt.Nobody() {
			t.Fatal(receipt, err)
		}
		alice.Expect("order placed", order{ID: 7, Title: "milk"})
	})
}

func TestAWorkerIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := hubtest.NewCluster(t)
		alice := cluster.Node(newHub).Connect(credentials{Token: "alice"})
		worker := hub.NewEmitter(cluster.Broker(), hub.EmitterOptions{})

		if _, err := worker.Emit(t.Context(), hub.User("alice"), "news", "hello", 1); err != nil {
			t.Fatal(err)
		}
		var text string
		alice.Expect("news", &text, 1)
		if text != "hello" {
			t.Errorf("got %q", text)
		}
	})
}

func TestWhatANodeMissedIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gaps := make(chan broker.Gap, 1)
		node := hubtest.Start(t, func(b broker.Broker) (*hub.Hub, error) {
			return hub.New(b, hub.Options{OnGap: func(g broker.Gap) { gaps <- g }})
		})
		node.Cut()
		<-gaps
	})
}
