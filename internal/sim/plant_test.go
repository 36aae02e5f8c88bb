package sim

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/engine"
	"tether/internal/long"
)

// plant is a fault between the hub and one of its ports. The simulator has to find each.
type plant struct {
	name   string
	broker func(broker.Broker) broker.Broker
	conn   func(engine.Conn) engine.Conn
}

// faulty is a broker with some of its methods replaced; nil: as they are.
type faulty struct {
	broker.Broker
	publish     func(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error)
	subscribe   func(ctx context.Context, subjects []string) []error
	unsubscribe func(ctx context.Context, subjects []string) []error
	handler     func(broker.Handler) broker.Handler
}

func (f *faulty) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if f.publish != nil {
		return f.publish(ctx, msgs)
	}
	return f.Broker.Publish(ctx, msgs...)
}

func (f *faulty) Subscribe(ctx context.Context, subjects ...string) []error {
	if f.subscribe != nil {
		return f.subscribe(ctx, subjects)
	}
	return f.Broker.Subscribe(ctx, subjects...)
}

func (f *faulty) Unsubscribe(ctx context.Context, subjects ...string) []error {
	if f.unsubscribe != nil {
		return f.unsubscribe(ctx, subjects)
	}
	return f.Broker.Unsubscribe(ctx, subjects...)
}

func (f *faulty) Run(ctx context.Context, h broker.Handler) error {
	if h.Gap == nil { // not all want to know
		h.Gap = func(broker.Gap) {}
	}
	if h.State == nil {
		h.State = func(error) {}
	}
	if f.handler != nil {
		h = f.handler(h)
	}
	return f.Broker.Run(ctx, h)
}

// every is true once in n calls.
func every(n int64) func() bool {
	var calls atomic.Int64
	return func() bool { return calls.Add(1)%n == 0 }
}

// delivering plants something into Deliver.
func delivering(f func(deliver func(broker.Message)) func(broker.Message)) func(broker.Broker) broker.Broker {
	return func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, handler: func(h broker.Handler) broker.Handler {
			h.Deliver = f(h.Deliver)
			return h
		}}
	}
}

var brokerPlants = []plant{
	{name: "Subscribe returns before it is confirmed", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, subscribe: func(ctx context.Context, subjects []string) []error {
			go func() {
				time.Sleep(2 * time.Millisecond)
				b.Subscribe(context.WithoutCancel(ctx), subjects...)
			}()
			return nil
		}}
	}},
	{name: "Subscribe fails and says that it has not", broker: func(b broker.Broker) broker.Broker {
		now := every(20)
		return &faulty{Broker: b, subscribe: func(ctx context.Context, subjects []string) []error {
			if now() {
				return nil
			}
			return b.Subscribe(ctx, subjects...)
		}}
	}},
	{name: "Unsubscribe comes late, over a new Subscribe", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, unsubscribe: func(ctx context.Context, subjects []string) []error {
			go func() {
				time.Sleep(30 * time.Millisecond)
				b.Unsubscribe(context.WithoutCancel(ctx), subjects...)
			}()
			return nil
		}}
	}},
	{name: "Unsubscribe does nothing", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, unsubscribe: func(context.Context, []string) []error { return nil }}
	}},
	{name: "the gap event is forgotten", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, handler: func(h broker.Handler) broker.Handler {
			h.Gap = func(broker.Gap) {}
			return h
		}}
	}},
	{name: "the gap begins when it was noticed, not when it began", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, handler: func(h broker.Handler) broker.Handler {
			gap := h.Gap
			h.Gap = func(g broker.Gap) {
				g.From = g.To
				gap(g)
			}
			return h
		}}
	}},
	{name: "the state is not told", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, handler: func(h broker.Handler) broker.Handler {
			state := h.State
			h.State = func(err error) {
				if err == nil {
					state(nil)
				}
			}
			return h
		}}
	}},
	{name: "half of the subjects are forgotten at a reconnect", broker: func(b broker.Broker) broker.Broker {
		var mu sync.Mutex
		var all []string
		return &faulty{
			Broker: b,
			subscribe: func(ctx context.Context, subjects []string) []error {
				mu.Lock()
				all = append(all, subjects...)
				mu.Unlock()
				return b.Subscribe(ctx, subjects...)
			},
			handler: func(h broker.Handler) broker.Handler {
				gap := h.Gap
				h.Gap = func(g broker.Gap) {
					gap(g)
					mu.Lock()
					lost := append([]string(nil), all[:len(all)/2]...)
					mu.Unlock()
					go b.Unsubscribe(context.Background(), lost...)
				}
				return h
			},
		}
	}},
	{name: bufferPlant, broker: delivering(func(deliver func(broker.Message)) func(broker.Message) {
		turn := make(chan struct{}, 1) // a mutex would stop the clock while deliver sleeps
		buffer := make([]byte, 0, 1<<16)
		return func(m broker.Message) {
			turn <- struct{}{}
			defer func() { <-turn }()
			buffer = append(buffer[:0], m.Data...)
			m.Data = buffer
			deliver(m)
		}
	})},
	{name: "two lanes for one subject", broker: delivering(func(deliver func(broker.Message)) func(broker.Message) {
		odd := every(2)
		return func(m broker.Message) {
			if odd() {
				deliver(m)
				return
			}
			go func() {
				time.Sleep(4 * time.Millisecond)
				deliver(m)
			}()
		}
	})},
	{name: "one message in a hundred is delivered twice", broker: delivering(func(deliver func(broker.Message)) func(broker.Message) {
		now := every(100)
		return func(m broker.Message) {
			deliver(m)
			if now() {
				deliver(m)
			}
		}
	})},
	{name: "one message in a hundred is dropped", broker: delivering(func(deliver func(broker.Message)) func(broker.Message) {
		now := every(100)
		return func(m broker.Message) {
			if !now() {
				deliver(m)
			}
		}
	})},
	{name: "one message in a hundred goes to the subject before", broker: delivering(func(deliver func(broker.Message)) func(broker.Message) {
		now := every(100)
		var mu sync.Mutex
		var before string
		return func(m broker.Message) {
			mu.Lock()
			was := before
			before = m.Subject
			mu.Unlock()
			if now() && was != "" {
				m.Subject = was
			}
			deliver(m)
		}
	})},
	{name: "Publish is repeated when there is no answer", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, publish: func(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error) {
			reach, err := b.Publish(ctx, msgs...)
			if errors.Is(err, broker.ErrUnavailable) {
				time.Sleep(200 * time.Millisecond)
				again, second := b.Publish(ctx, msgs...)
				if second == nil {
					return again, nil
				}
			}
			return reach, err
		}}
	}},
	{name: "Publish fails in silence", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, publish: func(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error) {
			reach, err := b.Publish(ctx, msgs...)
			if errors.Is(err, broker.ErrUnavailable) {
				err = nil
			}
			return reach, err
		}}
	}},
	{name: "Publish waits for the broker to come back", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, publish: func(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error) {
			for {
				reach, err := b.Publish(ctx, msgs...)
				if !errors.Is(err, broker.ErrUnavailable) || ctx.Err() != nil {
					return reach, err
				}
				time.Sleep(100 * time.Millisecond)
			}
		}}
	}},
	{name: "receipts say that nobody is there", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, publish: func(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error) {
			reach, err := b.Publish(ctx, msgs...)
			for i := range reach {
				if reach[i].Bound == broker.Exact {
					reach[i].Nodes = 0
				}
			}
			return reach, err
		}}
	}},
	{name: "receipts count who has gone", broker: func(b broker.Broker) broker.Broker {
		return &faulty{Broker: b, publish: func(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error) {
			reach, err := b.Publish(ctx, msgs...)
			for i := range reach {
				if reach[i].Bound == broker.Exact && reach[i].Nodes == 0 {
					reach[i].Nodes = 1
				}
			}
			return reach, err
		}}
	}},
}

// faultyConn is a connection with some of its methods replaced; nil: as they are.
type faultyConn struct {
	engine.Conn
	send  func(p *engine.Packet, from *engine.Gate) error
	close func(r engine.Reason)
}

func (f *faultyConn) Send(p *engine.Packet, from *engine.Gate) error {
	if f.send != nil {
		return f.send(p, from)
	}
	return f.Conn.Send(p, from)
}

func (f *faultyConn) Close(r engine.Reason) {
	if f.close != nil {
		f.close(r)
		return
	}
	f.Conn.Close(r)
}

var connPlants = []plant{
	{name: "DISCONNECT is dropped", conn: func(c engine.Conn) engine.Conn {
		return &faultyConn{Conn: c, send: func(p *engine.Packet, from *engine.Gate) error {
			if bytes.HasPrefix(p.Text(), []byte("41")) {
				return nil
			}
			return c.Send(p, from)
		}}
	}},
	{name: "DISCONNECT comes after the close", conn: func(c engine.Conn) engine.Conn {
		return &faultyConn{Conn: c, send: func(p *engine.Packet, from *engine.Gate) error {
			if bytes.HasPrefix(p.Text(), []byte("41")) {
				p = p.Keep()
				go func() {
					time.Sleep(time.Millisecond)
					c.Send(p, from)
				}()
				return nil
			}
			return c.Send(p, from)
		}}
	}},
	{name: "Close throws away what is queued", conn: func(c engine.Conn) engine.Conn {
		return &faultyConn{Conn: c, close: func(r engine.Reason) {
			for w := c.(*wire); ; {
				select {
				case <-w.queue:
					continue
				default:
				}
				c.Close(r)
				return
			}
		}}
	}},
	{name: "Close does nothing", conn: func(c engine.Conn) engine.Conn {
		return &faultyConn{Conn: c, close: func(engine.Reason) {}}
	}},
	{name: "two packets change places", conn: func(c engine.Conn) engine.Conn {
		now := every(10)
		return &faultyConn{Conn: c, send: func(p *engine.Packet, from *engine.Gate) error {
			if now() {
				p = p.Keep()
				go func() {
					time.Sleep(4 * time.Millisecond)
					c.Send(p, from)
				}()
				return nil
			}
			return c.Send(p, from)
		}}
	}},
	{name: "a packet is sent twice", conn: func(c engine.Conn) engine.Conn {
		now := every(20)
		return &faultyConn{Conn: c, send: func(p *engine.Packet, from *engine.Gate) error {
			if now() {
				c.Send(p, from)
			}
			return c.Send(p, from)
		}}
	}},
	{name: "an answer is dropped", conn: func(c engine.Conn) engine.Conn {
		now := every(20)
		return &faultyConn{Conn: c, send: func(p *engine.Packet, from *engine.Gate) error {
			if bytes.HasPrefix(p.Text(), []byte("43")) && now() {
				return nil
			}
			return c.Send(p, from)
		}}
	}},
	{name: "every packet is taken for volatile when others wait", conn: func(c engine.Conn) engine.Conn {
		return &faultyConn{Conn: c, send: func(p *engine.Packet, from *engine.Gate) error {
			if len(c.(*wire).queue) > 0 && bytes.HasPrefix(p.Text(), []byte("42")) {
				return nil
			}
			return c.Send(p, from)
		}}
	}},
}

const bufferPlant = "the buffer is used again"

const plantSeeds = 300 // in which a planted fault has to be found

func TestEveryPlantedFaultIsFound(t *testing.T) {
	for i, p := range append(brokerPlants, connPlants...) {
		t.Run(p.name, func(t *testing.T) {
			if i%3 > 0 {
				long.Only(t)
			}
			if raceDetector && p.name == bufferPlant {
				t.Skip("what is planted is a data race")
			}
			t.Parallel()
			for seed := range uint64(plantSeeds) {
				var r Report
				synctest.Test(t, func(*testing.T) {
					r = Run(Plan{Seed: seed, Broker: p.broker, Conn: p.conn})
					time.Sleep(time.Minute) // the faults themselves end, too
				})
				if len(r.Violations) > 0 {
					t.Logf("found by seed %d, run %d: %.200s", seed, seed+1, r.Violations[0])
					return
				}
			}
			t.Errorf("not found in %d runs", plantSeeds)
		})
	}
}

// The page that lists the planted faults lists all of them.
func TestThePageNamesEveryPlantedFault(t *testing.T) {
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range append(brokerPlants, connPlants...) {
		names = append(names, p.name)
	}
	for _, m := range allMutants() {
		names = append(names, m.name)
	}
	for _, name := range names {
		if !bytes.Contains(page, []byte("| "+name+" |")) {
			t.Errorf("docs/reliability.md does not name %q", name)
		}
	}
}
