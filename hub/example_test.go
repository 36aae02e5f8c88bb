package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http/httptest"
	"time"

	"tether/broker/memory"
	"tether/hub"
)

// printer is a connection that prints what the client gets. A real one is a transport's.
type printer struct{ client *hub.Client }

func (p *printer) ID() string        { return "engine.io session" }
func (p *printer) Transport() string { return "websocket" }

func (p *printer) Send(packet *hub.Packet) error {
	fmt.Printf("client gets %s\n", packet.Text()[1:])
	return nil
}

func (p *printer) Close(reason hub.Reason) { go p.client.Closed(reason) }

// connectAs connects a client and waits until it has been answered.
func connectAs(h *hub.Hub, user string) *printer {
	conn := new(printer)
	c, err := h.Attach(conn, httptest.NewRequest("GET", "/socket.io/", nil))
	if err != nil {
		log.Fatal(err)
	}
	conn.client = c
	c.Text([]byte(`0{"user":"` + user + `"}`))
	return conn
}

func Example() {
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{DrainWindow: -1})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()

	connected := make(chan struct{})
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var auth struct{ User string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil || auth.User == "" {
			return hub.Refuse("unauthorized", nil)
		}
		defer close(connected)
		return s.Join(ctx, hub.User(auth.User), "news")
	})
	h.Of("/").On("add", func(_ context.Context, _ *hub.Socket, m *hub.Message) error {
		var a, b int
		if err := m.Bind(&a, &b); err != nil {
			return err
		}
		return m.Ack(a + b)
	})

	connectAs(h, "42")
	<-connected

	receipt, err := h.Emitter().Emit(ctx, hub.User("7"), "/users/ping", 1)
	fmt.Println(receipt, err)

	cancel() // drain
	fmt.Println(<-ended)
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
	// hub: event is not declared: "/users/pong"
}

func ExampleNewEvent() {
	type Ping struct {
		Hello string `json:"hello"`
	}
	ping := hub.NewEvent[Ping]("/users/ping") // once, in a package that all import

	b := memory.NewBus().Broker()
	defer b.Close()
	e := hub.NewEmitter(b, hub.EmitterOptions{Events: []string{ping.Name()}})
	receipt, err := ping.Emit(context.Background(), e, hub.User("42"), Ping{"world"})
	fmt.Println(receipt, err)
	// Output: nobody is there <nil>
}

func ExampleKind() {
	fmt.Println(hub.User("7"))
	fmt.Println(hub.Kind("admin-user").Room("7"))
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

// A request to one client, and its answer.
func ExampleNewCall() {
	type Question struct {
		Text string `json:"text"`
	}
	ask := hub.NewCall[Question, string]("question")

	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		log.Fatal(err)
	}
	h.Of("/").On("ask me", func(ctx context.Context, s *hub.Socket, _ *hub.Message) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		answer, err := ask.Call(ctx, s, Question{"what is your name?"})
		if err != nil {
			return err
		}
		return s.Emit("hello", answer)
	})
}
