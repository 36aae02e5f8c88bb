package hub

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"tether/engine"
	"tether/internal/budget"
)

// half sends a packet that lacks the last of its two attachments.
func (p *peer) half(bytes int) error {
	if err := p.client.Text([]byte(`52-["x"]`)); err != nil {
		return err
	}
	return p.client.Binary(make([]byte, bytes))
}

func wantNothingHeld(t *testing.T, h *Hub) {
	t.Helper()
	if n, packets := h.incomplete.Held(); n != 0 || packets != 0 {
		t.Errorf("%d bytes of %d packets are counted for nobody", n, packets)
	}
}

// At the limit everybody stays, one byte past it the one that began first ends.
func TestTheBudgetOfHalfPackets(t *testing.T) {
	const size = 2 * budget.Small
	h := alone(t, Options{})
	p, _ := connect(t, h)
	p.half(size)
	one, _ := h.incomplete.Held()
	if one < size || one > size+100 {
		t.Fatalf("%d bytes are counted for %d", one, size)
	}
	for _, past := range []int{0, 1} {
		h := alone(t, Options{Limits: Limits{TotalAttachmentBytes: 2*one - past}})
		got := make(chan int, 2)
		h.Of("/").On("x", func(_ context.Context, _ *Socket, m *Message) error {
			got <- 1
			return nil
		})
		first, _ := connect(t, h)
		second, _ := connect(t, h)
		for _, p := range []*peer{first, second} {
			if err := p.half(size); err != nil {
				t.Fatal(err)
			}
		}
		if n, _ := h.incomplete.Held(); n > 2*one-past {
			t.Errorf("%d bytes are counted", n)
		}
		if past > 0 {
			<-first.ended
			if first.closedFor() != ReasonTransportError {
				t.Errorf("closed for %q", first.closedFor())
			}
			if err := first.client.Binary(nil); engine.ReasonOf(err) != ReasonTransportError {
				t.Errorf("the one that was given up goes on: %v", err)
			}
		} else if err := first.client.Binary(nil); err != nil || first.closedFor() != "" {
			t.Errorf("at the limit: %v, closed for %q", err, first.closedFor())
		}
		if err := second.client.Binary(nil); err != nil || second.closedFor() != "" {
			t.Errorf("the second: %v, closed for %q", err, second.closedFor())
		}
		for range 2 - past {
			<-got
		}
		wantNothingHeld(t, h)
	}
}

func TestOnePacketPastTheBudgetEndsItself(t *testing.T) {
	h := alone(t, Options{Limits: Limits{TotalAttachmentBytes: 2 * budget.Small}})
	p, _ := connect(t, h)
	if err := p.half(2 * budget.Small); engine.ReasonOf(err) != ReasonTransportError {
		t.Errorf("error is %v", err)
	}
	<-p.ended
	wantNothingHeld(t, h)
}

func TestSmallHalfPacketsAreNotCounted(t *testing.T) {
	h := alone(t, Options{Limits: Limits{TotalAttachmentBytes: 2 * budget.Small}})
	for range 10 {
		p, _ := connect(t, h)
		if err := p.half(budget.Small - 100); err != nil {
			t.Fatal(err)
		}
	}
	wantNothingHeld(t, h)
}

func TestTheTextOfAHalfPacketIsCounted(t *testing.T) {
	h := alone(t, Options{})
	p, _ := connect(t, h)
	p.say(`51-["` + "x" + `","` + string(bytes.Repeat([]byte("y"), 10_000)) + `"]`)
	if n, _ := h.incomplete.Held(); n < 10_000 {
		t.Errorf("%d bytes are counted", n)
	}
}

func TestTheEndOfAHalfPacketFreesItsBudget(t *testing.T) {
	for name, end := range map[string]func(*peer){
		"complete":   func(p *peer) { p.client.Binary(nil) },
		"disconnect": func(p *peer) { p.end(ReasonTransportClose) },
		"error":      func(p *peer) { p.refusedText(`2["x"]`); p.end(ReasonParseError) },
		"timeout": func(p *peer) {
			p.client.hub.sweep(time.Now().Add(time.Hour))
			<-p.ended
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := alone(t, Options{})
			p, _ := connect(t, h)
			if err := p.half(10_000); err != nil {
				t.Fatal(err)
			}
			if n, packets := h.incomplete.Held(); n < 10_000 || packets != 1 {
				t.Fatalf("%d bytes of %d packets are counted", n, packets)
			}
			end(p)
			wantNothingHeld(t, h)
		})
	}
}

// The end of a connection may come between any two steps of a packet.
func TestNothingIsCountedForAConnectionThatEndsMeanwhile(t *testing.T) {
	h := alone(t, Options{})
	for range 200 {
		p, _ := connect(t, h)
		p.tasks.Go(func() {
			if p.half(budget.Small) == nil {
				p.client.Binary(nil)
			}
		})
		p.end(ReasonTransportClose)
		p.tasks.Wait()
	}
	wantNothingHeld(t, h)
}

// TestTenThousandHalfPackets measures memory: what was given up must be free.
func TestTenThousandHalfPackets(t *testing.T) {
	const clients, size, budget = 10_000, 16 << 10, 16 << 20
	h := alone(t, Options{Limits: Limits{TotalAttachmentBytes: budget}})
	peers := make([]*peer, clients)
	for i := range peers {
		peers[i] = dialWith(t, h, newWireOf(4))
		peers[i].say("0")
		peers[i].joined("/")
	}
	before := live()
	var sending sync.WaitGroup
	for part := range 8 {
		sending.Go(func() {
			for i := part; i < clients; i += 8 {
				if err := peers[i].half(size); err != nil && engine.ReasonOf(err) != ReasonTransportError {
					t.Error(err)
				}
				if n, _ := h.incomplete.Held(); n > budget {
					t.Errorf("%d bytes are counted", n)
				}
			}
		})
	}
	sending.Wait()
	for _, p := range peers {
		if p.closedFor() != "" {
			<-p.ended // until then it may hold what was given up
		}
	}
	// Beside the budget there are what each client has become, and the test's own: 400 bytes a client.
	if grown := int64(live()) - int64(before); grown > budget+budget/2 {
		t.Errorf("%d bytes are in use for a budget of %d", grown, budget)
	}
	_, left := h.incomplete.Held()
	closed := 0
	for _, p := range peers {
		if p.closedFor() != "" {
			<-p.ended
			closed++
		} else if err := p.client.Binary(nil); err != nil {
			t.Error(err)
		}
	}
	if left < budget/size*9/10 || closed != clients-left {
		t.Errorf("%d of %d ended, and %d are left", closed, clients, left)
	}
	wantNothingHeld(t, h)
}

func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
