package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http/httptest"
	"sync"
	"time"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

// wire is a connection of one client in these examples. A real one is a transport's.
type wire struct {
	client   engine.Receiver
	answered chan struct{} // closed when the client has been told that it is connected
	events   chan string   // what it gets then
	mu       sync.Mutex    // held while a packet takes its place
}

func (w *wire) ID() string        { return "engine.io session" }
func (w *wire) Transport() string { return "websocket" }

func (w *wire) Behind() (<-chan struct{}, error) { return nil, nil }

func (w *wire) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	if !log.Add(e, from) {
		return engine.ErrDisconnected
	}
	return w.Send(&e.Packet, from)
}

func (w *wire) Close(reason hub.Reason) { go w.client.Closed(reason) }

func (w *wire) Send(p *engine.Packet, from *engine.Gate) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if from.Shut() {
		return hub.ErrDisconnected
	}
	if text := string(p.Text()); text[:2] == "40" {
		close(w.answered)
	} else {
		w.events <- text
	}
	return nil
}

// dial connects a client, as a transport would.
func dial(h *hub.Hub, auth string) *wire {
	w := &wire{answered: make(chan struct{}), events: make(chan string, 10)}
	c, err := h.Attach(w, httptest.NewRequest("GET", "/socket.io/", nil))
	if err != nil {
		log.Fatal(err)
	}
	w.client = c
	if err := c.Text([]byte("0" + auth)); err != nil {
		log.Fatal(err)
	}
	<-w.answered
	return w
}

func Example() {
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{DrainWindow: -1})
	if err != nil {
		log.Fatal(err)
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var auth struct{ User string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil || auth.User == "" {
			return hub.Refuse("unauthorized", nil)
		}
		return s.Register(ctx, auth.User)
	})
	h.Of("/").On("add", func(_ context.Context, _ *hub.Socket, m *hub.Message) error {
		var a, b int
		if err := m.Bind(&a, &b); err != nil {
			return err
		}
		return m.Ack(a + b)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()

	client := dial(h, `{"user":"42"}`)
	fmt.Println(<-client.events)

	fmt.Println(h.Emitter().Emit(ctx, hub.User("42"), "/users/ping", map[string]string{"hello": "world"}))
	fmt.Println(<-client.events)
	fmt.Println(h.Emitter().Emit(ctx, hub.User("7"), "/users/ping", nil))

	client.client.Text([]byte(`20["add",1,2]`))
	fmt.Println(<-client.events)

	cancel() // drain
	fmt.Println(<-ended)
	// Output:
	// 42["/ops/connection-success",{"message":"Successfully connected"}]
	// 1 node took it <nil>
	// 42["/users/ping",{"hello":"world"}]
	// nobody is there <nil>
	// 430[3]
	// <nil>
}

// A worker reaches users without serving any.
func ExampleNewEmitter() {
	b := memory.NewBus().Broker()
	defer b.Close()
	e := hub.NewEmitter(b, hub.EmitterOptions{Events: []string{"/users/ping"}})

	receipt, err := e.Emit(context.Background(), hub.User("42"), "/users/ping", map[string]string{"hello": "world"})
	if err != nil {
		log.Fatal(err)
	}
	if receipt.Nobody() {
		fmt.Println("offline: send a push notification")
	}
	_, err = e.Emit(context.Background(), hub.User("42"), "/users/pong")
	fmt.Println(err)
	// Output:
	// offline: send a push notification
	// hub: event may not be emitted: it is not declared: "/users/pong"
}

func ExampleKind() {
	fmt.Println(hub.User("7"))
	fmt.Println(hub.Kind("admin-user").User("7"))
	// Output:
	// user:7
	// admin-user:7
}

// A socket that is disconnected when its token expires.
func ExampleSocket_ExpireAt() {
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		log.Fatal(err)
	}
	type claims struct {
		User    string
		Expires time.Time
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var c claims
		if err := json.Unmarshal(s.Handshake().Auth, &c); err != nil {
			return hub.Refuse("unauthorized", nil)
		}
		s.ExpireAt(c.Expires)
		return s.Register(ctx, c.User)
	})
}
