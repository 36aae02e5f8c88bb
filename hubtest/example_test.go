package hubtest_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/event"
	"tether/hub"
	"tether/hubtest"
)

// The events of a small chat.
var (
	say  = event.NewCall[line, receipt]("say")
	said = event.New[line]("said")
)

type line struct {
	From string `json:"from,omitempty"`
	Text string `json:"text"`
}

type receipt struct {
	Length int `json:"length"`
}

// newHub is the application's own: its server calls it with Redis, its tests with what hubtest gives it.
func newHub(b broker.Broker) (*hub.Hub, error) {
	h, err := hub.New(b, hub.Options{Greeting: hub.Greeting{Off: true}})
	if err != nil {
		return nil, err
	}
	root := h.Of("/")
	root.OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var auth struct {
			User string        `json:"user"`
			For  time.Duration `json:"for"`
		}
		if json.Unmarshal(s.Handshake().Auth, &auth) != nil || auth.User == "" {
			return hub.Refuse("who are you?", nil)
		}
		if auth.For > 0 {
			s.ExpireAt(time.Now().Add(auth.For))
		}
		s.SetData(auth.User)
		return s.Register(ctx, auth.User)
	})
	say.Handle(root, func(ctx context.Context, s *hub.Socket, l line) (receipt, error) {
		if l.Text == "" {
			return receipt{}, hub.Refuse("say something", nil)
		}
		l.From = s.Data().(string)
		_, err := said.Emit(ctx, s.Broadcast(), hub.Everyone, l)
		return receipt{Length: len(l.Text)}, err
	})
	return h, nil
}

type auth struct {
	User string        `json:"user"`
	For  time.Duration `json:"for,omitempty"`
}

// A handler: what one client says reaches the other, and not itself.
func Example() {
	run(func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			node := hubtest.Start(t, newHub)
			ann, ben := node.Connect(auth{User: "ann"}), node.Connect(auth{User: "ben"})

			ann.Call("say", line{Text: "hello"}).Expect(receipt{Length: 5})
			ben.Expect("said", line{From: "ann", Text: "hello"})
			ann.Refute("said")
		})
	})
	// Output: ok
}

// A connect hook refuses a client, and lets another stay until its token expires. The hour takes no time.
func ExampleNode_ExpectRefusal() {
	run(func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			node := hubtest.Start(t, newHub)
			node.ExpectRefusal(nil, "who are you?")

			ann := node.Connect(auth{User: "ann", For: time.Hour})
			time.Sleep(time.Hour + time.Second)
			ann.ExpectEnd(hub.ReasonServerDisconnect)
		})
	})
	// Output: ok
}

// Two nodes, and a worker that is none.
func ExampleCluster() {
	run(func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cluster := hubtest.NewCluster(t)
			phone := cluster.Node(newHub).Connect(auth{User: "ann"})
			laptop := cluster.Node(newHub).Connect(auth{User: "ann"})

			worker := hub.NewEmitter(cluster.Broker(), hub.EmitterOptions{})
			got, err := said.Emit(t.Context(), worker, hub.User("ann"), line{Text: "lunch"})
			if err != nil || got.Nodes != 2 {
				t.Errorf("%v, %v", got, err)
			}
			phone.Expect("said", line{Text: "lunch"})
			laptop.Expect("said", line{Text: "lunch"})
		})
	})
	// Output: ok
}

// run runs a test within an example, so that the examples are tests of their own. With -v a test prints its name,
// which is no output of the example.
func run(test func(t *testing.T)) {
	verbose := flag.Lookup("test.v").Value
	was := verbose.String()
	verbose.Set("false")
	defer verbose.Set(was)
	all := func(string, string) (bool, error) { return true, nil }
	if testing.RunTests(all, []testing.InternalTest{{Name: "TestExample", F: test}}) {
		fmt.Println("ok")
	}
}
