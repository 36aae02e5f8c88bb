package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
	"tether/internal/long"
)

// wire is a connection that keeps what it is sent. It ends as soon as it is closed.
type wire struct {
	client  *client              // set before anything is sent
	before  func(*engine.Packet) // called before a packet is taken; nil: nothing
	behind  chan struct{}        // what Behind returns
	packets chan *engine.Packet  // what was sent, in order
	ended   chan struct{}        // closed when the client has been told that the connection has ended
	tasks   sync.WaitGroup
	sending sync.Mutex // held while a packet takes its place

	mu     sync.Mutex
	reason Reason
}

const wireSize = 1 << 12

func newWire() *wire { return newWireOf(wireSize) }

func newWireOf(size int) *wire {
	return &wire{packets: make(chan *engine.Packet, size), ended: make(chan struct{})}
}

func (w *wire) ID() string        { return "secret" }
func (w *wire) Transport() string { return "websocket" }

func (w *wire) Behind() (<-chan struct{}, error) {
	if w.closedFor() != "" {
		return nil, ErrDisconnected
	}
	return w.behind, nil
}

func (w *wire) Send(p *engine.Packet, from *engine.Gate) error {
	if w.before != nil {
		w.before(p)
	}
	w.sending.Lock()
	defer w.sending.Unlock()
	if from.Shut() {
		return ErrDisconnected
	}
	select {
	case w.packets <- p.Keep():
		p.Became(w, engine.Written)
		return nil
	default:
		return ErrSlowConsumer
	}
}

func (w *wire) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	if w.before != nil {
		w.before(&e.Packet)
	}
	w.sending.Lock()
	defer w.sending.Unlock()
	if from.Shut() || w.closedFor() != "" || !log.Add(e, from) {
		return ErrDisconnected
	}
	select {
	case w.packets <- &e.Packet:
		e.Became(w, engine.Written)
		return nil
	default:
		return ErrSlowConsumer
	}
}

func (w *wire) Close(reason Reason) {
	w.mu.Lock()
	first := w.reason == ""
	if first {
		w.reason = reason
	}
	w.mu.Unlock()
	if first {
		w.tasks.Go(func() {
			w.client.Closed(reason)
			close(w.ended)
		})
	}
}

func (w *wire) closedFor() Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason
}

// peer is a client in a test.
type peer struct {
	*wire
	t testing.TB
}

func dial(t testing.TB, h *Hub) *peer {
	t.Helper()
	return dialWith(t, h, newWire())
}

func dialWith(t testing.TB, h *Hub, w *wire) *peer {
	t.Helper()
	r := httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket&room=7", nil)
	r.Header.Set("X-Test", "yes")
	c, err := h.attach(w, r)
	if err != nil {
		t.Fatal(err)
	}
	w.client = c
	return &peer{w, t}
}

// connect dials and joins "/", and returns the socket once nothing is held for it: until then what is volatile does not
// arrive, and what is not, by and by. A socket that was sent away at once is returned as well.
func connect(t testing.TB, h *Hub) (*peer, *Socket) {
	t.Helper()
	p := dial(t, h)
	p.say("0")
	s := p.joined("/")
	if err := s.Wait(t.Context()); err != nil && !errors.Is(err, ErrDisconnected) {
		t.Fatal(err)
	}
	return p, s
}

// say sends texts as a client would: without the "4" of Engine.IO.
func (p *peer) say(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if err := p.client.Text([]byte(text)); err != nil {
			p.t.Fatalf("%s: %v", text, err)
		}
	}
}

// refusedText sends a text that must be refused, and closes as a transport would.
func (p *peer) refusedText(text string) error {
	p.t.Helper()
	err := p.client.Text([]byte(text))
	if err == nil {
		p.t.Errorf("%s was accepted", text)
	}
	return err
}

// TestMain keeps out of the output what hubs without a logger of their own log.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	long.Parallel(2)
	os.Exit(m.Run())
}

const patience = 30 * time.Second

// next is the text of the next packet.
func (p *peer) next() string {
	p.t.Helper()
	return string(p.nextPacket().Text())
}

func (p *peer) nextPacket() *engine.Packet {
	p.t.Helper()
	select {
	case packet := <-p.packets:
		return packet
	case <-time.After(patience):
		p.t.Fatal("nothing was sent")
		return nil
	}
}

func (p *peer) want(texts ...string) {
	p.t.Helper()
	for _, want := range texts {
		if got := p.next(); got != want {
			p.t.Fatalf("client got %s, want %s", got, want)
		}
	}
}

// wantNothing checks that nothing was sent up to now.
func (p *peer) wantNothing() {
	p.t.Helper()
	select {
	case packet := <-p.packets:
		p.t.Errorf("client got %s, want nothing", packet.Text())
	default:
	}
}

// joined reads the answer to CONNECT and returns the socket that it is about.
func (p *peer) joined(namespace string) *Socket {
	p.t.Helper()
	text := p.next()
	var answer struct{ Sid string }
	head := "40"
	if namespace != "/" {
		head += namespace + ","
	}
	rest, ok := strings.CutPrefix(text, head)
	if !ok || json.Unmarshal([]byte(rest), &answer) != nil || !isID(answer.Sid) {
		p.t.Fatalf("answer to CONNECT is %s", text)
	}
	s := p.client.hub.sockets.at(placeOf(answer.Sid))
	if s == nil || s.ID() != answer.Sid {
		p.t.Fatalf("no socket has the ID of the answer %s", text)
	}
	return s
}

// end closes the connection from the client's side.
func (p *peer) end(reason Reason) {
	p.Close(reason)
	<-p.ended
}

// start runs a hub on b until the test ends.
func start(t testing.TB, b broker.Broker, o Options) *Hub {
	t.Helper()
	h, _ := startStoppable(t, b, o)
	return h
}

func startStoppable(t testing.TB, b broker.Broker, o Options) (h *Hub, stop func() error) {
	t.Helper()
	if o.DrainWindow == 0 {
		o.DrainWindow = -1
	}
	h, err := New(b, o)
	if err != nil {
		t.Fatal(err)
	}
	if o.DrainWindow < 0 {
		h.lingers = 0
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // stop waits for it
		defer close(ended)
		err = h.Run(ctx)
	}()
	stop = func() error { // may be called again
		cancel()
		<-ended
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil && !t.Failed() {
			t.Errorf("run: %v", err)
		}
		b.Close()
	})
	select {
	case <-h.live:
	case <-ended:
		t.Fatalf("run ended: %v", err)
	}
	return h, stop
}

// several runs n hubs on one bus.
func several(t testing.TB, n int, o Options) []*Hub {
	t.Helper()
	bus := memory.NewBus()
	hubs := make([]*Hub, n)
	for i := range hubs {
		o.Node = fmt.Sprint("node-", i)
		hubs[i] = start(t, bus.Broker(), o)
	}
	return hubs
}

func alone(t testing.TB, o Options) *Hub {
	t.Helper()
	return several(t, 1, o)[0]
}

func mustEmit(t testing.TB, e *Emitter, to Target, event string, args ...any) Receipt {
	t.Helper()
	r, err := e.Emit(context.Background(), to, event, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
