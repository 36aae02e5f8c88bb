package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
)

// sink is a connection that takes everything and keeps nothing.
type sink struct{ taken int }

func (*sink) ID() string        { return "secret" }
func (*sink) Transport() string { return "websocket" }
func (*sink) Close(Reason)      {}

func (*sink) Behind() (<-chan struct{}, error) { return nil, nil }

func (k *sink) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	if !log.Add(e, from) {
		return engine.ErrDisconnected
	}
	return k.Send(&e.Packet, from)
}

func (k *sink) Send(*engine.Packet, *engine.Gate) error { k.taken++; return nil }

// deaf is a broker on which nothing arrives: benchmarks deliver by hand.
type deaf struct{ broker.Broker }

// crowded is a hub with n connected sockets, each registered for a user of its own. Their connect
// hooks are not run: nothing but the sockets is measured.
func crowded(b *testing.B, n int, r *http.Request) (*Hub, []*Socket) {
	h, err := New(memory.NewBus().Broker(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	sockets := make([]*Socket, n)
	ns := h.Of("/")
	for i := range sockets {
		c, err := h.attach(&sink{}, r)
		if err != nil {
			b.Fatal(err)
		}
		s := c.newSocket(ns, "", false)
		c.add(s)
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // nobody waits for the subscriptions
		s.join(ctx, 1, Room(fmt.Sprint("user:", i)))
		s.join(ctx, 0, Everyone)
		h.joining.unset(c)
		s.gate.Set(stateConnected)
		sockets[i] = s
	}
	return h, sockets
}

func bareRequest() *http.Request {
	return &http.Request{RemoteAddr: "127.0.0.1:54321", RequestURI: "/socket.io/?EIO=4&transport=websocket"}
}

var payload = json.RawMessage(`{"hello":"` + string(make256()) + `"}`)

func make256() []byte {
	b := make([]byte, 240)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return b
}

func eventFor(b *testing.B, h *Hub, to Target) broker.Message {
	e := h.Emitter()
	enc := newEncoder()
	defer enc.free()
	if err := enc.event("/users/ping", []any{payload}); err != nil {
		b.Fatal(err)
	}
	m := batch{emitter: e, encoder: enc}
	if e.publisher.origin != 0 {
		m.flags |= flagOrigin
	}
	return m.messages([]Target{to})[0]
}

func BenchmarkDeliverToOneOf10000(b *testing.B) {
	h, sockets := crowded(b, 10_000, bareRequest())
	deliverToEach(b, h, len(sockets))
}

// deliverToEach delivers to one of n users at a time.
func deliverToEach(b *testing.B, h *Hub, n int) {
	msgs := make([]broker.Message, n)
	for i := range msgs {
		msgs[i] = eventFor(b, h, Room(fmt.Sprint("user:", i)))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		h.deliver(msgs[i%len(msgs)])
		i++
	}
}

func BenchmarkDeliverTo10000(b *testing.B) {
	h, sockets := crowded(b, 10_000, bareRequest())
	deliverToAll(b, h, len(sockets))
}

// deliverToAll delivers to n sockets at a time.
func deliverToAll(b *testing.B, h *Hub, n int) {
	m := eventFor(b, h, Everyone)
	b.ReportAllocs()
	for b.Loop() {
		h.deliver(m)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/receiver")
}

// What recovery adds to the hub's part of a delivery: to one of 10,000 clients that have not asked, or have asked, and to all
// of them. What has been sent is forgotten after a while, as when clients answer heartbeats.
func BenchmarkDeliverUnasked(b *testing.B) { deliverWithRecovery(b, false) }

func BenchmarkDeliverLogged(b *testing.B) { deliverWithRecovery(b, true) }

func deliverWithRecovery(b *testing.B, asked bool) {
	h, sockets := crowded(b, 10_000, bareRequest())
	h.options.Recovery = Recovery{On: true, SessionBytes: 16 << 10}
	h.publisher.identify()
	if !asked {
		sockets = nil
	}
	for _, s := range sockets {
		s.gate.Set(stateConnecting)
		s.begin("")
		s.gate.Set(stateLogged)
	}
	b.Run("one", func(b *testing.B) { deliverToEach(b, h, 10_000) })
	b.Run("all", func(b *testing.B) { deliverToAll(b, h, 10_000) })
}

func BenchmarkDeliverTo10000ExceptARoom(b *testing.B) {
	h, sockets := crowded(b, 10_000, bareRequest())
	data := appendEnvelope(nil, kindEvent, 0, "", []Target{Room("user:1")})
	data = append(data, engine.NewPacket(engine.Terms{}, []byte(`42["x"]`)).Frames()...)
	m := broker.Message{Subject: roomSubject("tether", "/", Everyone), Data: data}
	b.ReportAllocs()
	for b.Loop() {
		h.deliver(m)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(sockets)), "ns/receiver")
}

func BenchmarkEncode(b *testing.B) {
	type ping struct {
		Hello string `json:"hello"`
		Seq   int    `json:"seq"`
	}
	for name, arg := range map[string]any{
		"raw":    payload,
		"struct": ping{string(make256()), 7},
		"string": string(make256()),
		"binary": Binary(make256()),
	} {
		b.Run(name, func(b *testing.B) {
			e := NewEmitter(deaf{}, EmitterOptions{})
			b.ReportAllocs()
			for b.Loop() {
				enc := newEncoder()
				if err := enc.event("/users/ping", []any{arg}); err != nil {
					b.Fatal(err)
				}
				m := batch{emitter: e, encoder: enc}
				m.messages([]Target{Room("user:1")})
				enc.free()
			}
		})
	}
}

func BenchmarkEmitThroughMemory(b *testing.B) {
	h := start(b, memory.NewBus().Broker(), Options{})
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Join(ctx, Room("room")) })
	c, err := h.attach(&sink{}, bareRequest())
	if err != nil {
		b.Fatal(err)
	}
	c.Text([]byte("0"))
	for h.Of("/").Len() == 0 {
		runtime.Gosched()
	}
	e := h.Emitter()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Emit(context.Background(), Room("room"), "/users/ping", payload); err != nil {
			b.Fatal(err)
		}
	}
	c.Closed(ReasonTransportClose)
}

func BenchmarkEventFromClient(b *testing.B) {
	h := start(b, memory.NewBus().Broker(), Options{})
	handled := make(chan struct{}, 1)
	h.Of("/").On("x", func(context.Context, *Socket, *Message) error { handled <- struct{}{}; return nil })
	c, err := h.attach(&sink{}, bareRequest())
	if err != nil {
		b.Fatal(err)
	}
	c.Text([]byte("0"))
	for h.Of("/").Len() == 0 {
		runtime.Gosched()
	}
	text := []byte(`2["x",` + string(payload) + `]`)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Text(text); err != nil {
			b.Fatal(err)
		}
		<-handled
	}
	c.Closed(ReasonTransportClose)
}

// What an idle registered connection costs in this package: client, socket, ID, its three places in
// rooms, and the room of its user. The connection is the transport's.
func BenchmarkMemoryOfAnIdleSocket(b *testing.B) {
	browser := httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket", nil)
	for name, value := range map[string]string{
		"User-Agent":      "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
		"Accept-Language": "en-US,en;q=0.9,de;q=0.8",
		"Accept-Encoding": "gzip, deflate, br, zstd",
		"Origin":          "https://app.example.com",
		"Cookie":          "session=0123456789abcdef0123456789abcdef0123456789abcdef",
		"Cache-Control":   "no-cache",
		"Pragma":          "no-cache",
	} {
		browser.Header.Set(name, value)
	}
	for _, c := range []struct {
		name   string
		r      *http.Request
		forget bool
	}{{"browser", browser, false}, {"bare", bareRequest(), false}, {"forgotten", browser, true}} {
		b.Run(c.name, func(b *testing.B) {
			const n = 50_000
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				h, sockets := crowded(b, n, c.r)
				if c.forget {
					for _, s := range sockets {
						s.client.forgetHandshake(s)
					}
				}
				for i := range h.index.shards { // what the reconciler, which is not running, would have worked off
					h.index.shards[i].queue, h.index.shards[i].waiters = nil, nil
				}
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(h)
				runtime.KeepAlive(sockets)
			}
			const own = 8 + 8 // the list of sockets, and the sink
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n-own, "B/socket")
		})
	}
}

// A whole life: attach, CONNECT with a hook that registers, the answer, and the end.
func BenchmarkConnectRegisterDisconnect(b *testing.B) {
	h := start(b, memory.NewBus().Broker(), Options{})
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Register(ctx, s.ID()) })
	r := bareRequest()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			k := &greeted{done: make(chan struct{})}
			c, err := h.attach(k, r)
			if err != nil {
				b.Error(err)
				return
			}
			c.Text([]byte("0"))
			<-k.done
			c.Closed(ReasonTransportClose)
		}
	})
}

// greeted is a connection that says when its second packet, the greeting, has come.
type greeted struct {
	sink
	done chan struct{}
}

func (g *greeted) Send(p *engine.Packet, from *engine.Gate) error {
	if g.sink.Send(p, from); g.taken == 2 {
		close(g.done)
	}
	return nil
}

// What a session costs in this package: of a client that has not asked, with recovery off and on, of one that has, and of
// one that has gone and is waited for. 100,000 of them.
func BenchmarkMemoryOfASession(b *testing.B) {
	for _, c := range []struct {
		name, auth string
		on, parked bool
	}{
		{"off", "", false, false}, {"on, not asked", "", true, false},
		{"asked", `{"recovery":true}`, true, false}, {"waits", `{"recovery":true}`, true, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			const n = 100_000
			var before, after runtime.MemStats
			for b.Loop() {
				h := start(b, memory.NewBus().Broker(), Options{
					ForgetHandshake: true, Greeting: Greeting{Off: true}, Recovery: Recovery{On: c.on, Window: time.Hour},
				})
				h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Register(ctx, s.ID()) })
				clients := make([]*client, n)
				come := func(i int) {
					var err error
					if clients[i], err = h.attach(&sink{}, bareRequest()); err != nil {
						b.Fatal(err)
					}
					clients[i].Text([]byte("0" + c.auth))
				}
				await := func(what func() int, want int) {
					for what() != want {
						runtime.Gosched()
					}
				}
				come(0)
				await(h.Of("/").Len, 1)
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&before)
				for i := 1; i < n; i++ {
					come(i)
					if i%1000 == 0 {
						await(h.Of("/").Len, i+1)
					}
				}
				await(h.Of("/").Len, n)
				if c.parked {
					for i := range clients {
						clients[i].Closed(ReasonTransportClose)
						clients[i] = nil
					}
					await(func() int { return h.Stats().Parked }, n)
				}
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(clients)
			}
			const own = 8 // the sink
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n-own, "B/session")
		})
	}
}
