package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

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
		s := c.newSocket(ns, "")
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
	return m.messages([]Target{to})[0]
}

func BenchmarkDeliverToOneOf10000(b *testing.B) {
	h, sockets := crowded(b, 10_000, bareRequest())
	msgs := make([]broker.Message, len(sockets))
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
	m := eventFor(b, h, Everyone)
	b.ReportAllocs()
	for b.Loop() {
		h.deliver(m)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(sockets)), "ns/receiver")
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
