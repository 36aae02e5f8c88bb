package nats_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/nats"
	"tether/internal/backend"
	"tether/internal/deptest"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

func TestDependsOnItsClientLibraryAndNoPartOfTheHub(t *testing.T) {
	const why = "a driver knows its backend and nothing else"
	deptest.Forbid(t, "tether/broker/nats", map[string]string{
		"tether/hub": why, "tether/transport": why, "tether/broker/redis": why, "tether/broker/memory": why,
		"tether/internal/backend": "test helper", "github.com/nats-io/nats-server": "it is for tests",
		"github.com/redis": why,
	})
}

// node is a broker that runs, and channels of what it is told.
type node struct {
	broker.Broker
	deliver *atomic.Value // func(broker.Message), called before got
	got     chan broker.Message
	gaps    chan broker.Gap
	lost    chan broker.Gap
	states  chan error
}

// run runs b until the test ends. got must have room for all that is delivered.
func run(t *testing.T, b broker.Broker, got chan broker.Message) node {
	t.Helper()
	n := node{b, new(atomic.Value), got, make(chan broker.Gap, 100), make(chan broker.Gap, 100), make(chan error, 100)}
	ended := make(chan struct{})
	go func() { // the cleanup waits for it
		defer close(ended)
		err := b.Run(context.Background(), broker.Handler{
			Deliver: func(m broker.Message) {
				if f, ok := n.deliver.Load().(func(broker.Message)); ok {
					f(m)
				}
				n.got <- m
			},
			Gap:   func(g broker.Gap) { n.gaps <- g },
			Lost:  func(g broker.Gap) { n.lost <- g },
			State: func(err error) { n.states <- err },
		})
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() {
		b.Close()
		<-ended
	})
	if err := receive(t, n.states); err != nil {
		t.Fatalf("State: got %v, want nil", err)
	}
	return n
}

func (n node) subscribe(t *testing.T, subjects ...string) {
	t.Helper()
	if err := errors.Join(n.Subscribe(t.Context(), subjects...)...); err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
}

func (n node) unsubscribe(t *testing.T, subjects ...string) {
	t.Helper()
	if err := errors.Join(n.Unsubscribe(t.Context(), subjects...)...); err != nil {
		t.Fatalf("Unsubscribe: %v", err)
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

func connect(t testing.TB, address string, options ...natsio.Option) *natsio.Conn {
	t.Helper()
	conn, err := natsio.Connect(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestAConnectionThatWouldLoseThingsIsRefused(t *testing.T) {
	s := backend.NATS(t)
	with := func(o ...natsio.Option) []natsio.Option { return append(nats.ConnectOptions(nil), o...) }
	for want, options := range map[string][]natsio.Option{
		"dialer":              nil,
		"reconnect for ever":  with(natsio.MaxReconnects(10)),
		"reconnect for ever ": with(natsio.NoReconnect()),
		"waits 2s":            with(natsio.ReconnectWait(2 * time.Second)),
		"buffers":             with(natsio.ReconnectBufSize(0)),
		"writes may block":    with(natsio.FlusherTimeout(time.Minute)),
		"its own messages":    with(natsio.NoEcho()),
	} {
		_, err := nats.New(connect(t, s.URL, options...), nats.Options{})
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	closed := connect(t, s.URL, with()...)
	closed.Close()
	if _, err := nats.New(closed, nats.Options{}); err == nil {
		t.Error("a closed connection is accepted")
	}
	if _, err := nats.New(nil, nats.Options{}); err == nil {
		t.Error("no connection is accepted")
	}
	if _, err := nats.New(connect(t, s.URL, with()...), nats.Options{Prefix: "a.*"}); err == nil {
		t.Error("a prefix with a wildcard is accepted")
	}
}

func TestTheApplicationGetsItsConnectionBackAsItWas(t *testing.T) {
	conn := connect(t, backend.NATS(t).URL, nats.ConnectOptions(nil)...)
	b, err := nats.New(conn, nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("use", func(t *testing.T) {
		n := run(t, b, make(chan broker.Message, 1))
		n.subscribe(t, "a", "b")
		if _, err := n.Publish(t.Context(), broker.Message{Subject: "a"}); err != nil {
			t.Fatal(err)
		}
	})
	if got := conn.NumSubscriptions(); got != 0 || !conn.IsConnected() {
		t.Errorf("after Close: %d subscriptions, connected %t", got, conn.IsConnected())
	}
}

func TestRunEndsWhenTheApplicationClosesTheConnection(t *testing.T) {
	conn := connect(t, backend.NATS(t).URL, nats.ConnectOptions(nil)...)
	b, err := nats.New(conn, nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	up, ended := make(chan error, 2), make(chan error)
	go func() {
		ended <- b.Run(context.Background(), broker.Handler{
			Deliver: func(broker.Message) {},
			State:   func(err error) { up <- err },
		})
	}()
	receive(t, up)
	conn.Close()
	if err := receive(t, ended); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Run: got %v, want %v", err, broker.ErrUnavailable)
	}
	if _, err := b.Publish(t.Context(), broker.Message{Subject: "s"}); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Publish: got %v, want %v", err, broker.ErrUnavailable)
	}
}

func TestAMessageThatIsTooLargeSaysWhatTheServerTakes(t *testing.T) {
	config := filepath.Join(t.TempDir(), "nats.conf")
	write(t, config, []byte("max_payload: 1000"))
	b := open(t, backend.NATS(t, "-c", config).URL)
	defer b.Close()
	long := strings.Repeat("x", 300)
	reach, err := b.Publish(t.Context(),
		broker.Message{Subject: "s", Data: make([]byte, 1000)},
		broker.Message{Subject: "s", Data: make([]byte, 1001)},
		broker.Message{Subject: long, Data: make([]byte, 698)},
		broker.Message{Subject: long, Data: make([]byte, 699)})
	for _, i := range []int{0, 2} {
		if late(reach[i]) {
			reach[i] = broker.Receipt{}
		}
	}
	if want := []broker.Receipt{{}, unknown, {}, unknown}; !slices.Equal(reach, want) {
		t.Errorf("got %v, want %v", reach, want)
	}
	if !errors.Is(err, broker.ErrTooLarge) || !strings.Contains(err.Error(), "1001 bytes, and the server takes 1000") {
		t.Errorf("got %v, want the figures", err)
	}
	_, err = b.Publish(t.Context(), broker.Message{Subject: long, Data: make([]byte, 699)})
	if !errors.Is(err, broker.ErrTooLarge) || !strings.Contains(err.Error(), "699 bytes, and the server takes 698") {
		t.Errorf("got %v, want the figures", err)
	}
}

func TestWhatDeliverCannotKeepUpWithIsDroppedIntoAGap(t *testing.T) {
	s := backend.NATS(t)
	b, err := nats.New(connect(t, s.URL, nats.ConnectOptions(nil)...), nats.Options{MaxPending: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	const sent, size = 5000, 4096 // 20 MB
	n := run(t, b, make(chan broker.Message, sent))
	first := make(chan struct{}, 1)
	gate := make(chan struct{})
	n.deliver.Store(func(broker.Message) {
		select {
		case first <- struct{}{}:
		default:
		}
		<-gate
	})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open) // before run's, which waits for Deliver
	n.subscribe(t, "much", "idle")
	p := connect(t, s.URL)
	for range sent {
		if err := p.Publish("tether.s.much", make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	receive(t, first)
	gap := func() broker.Gap {
		// The server may still be passing on what it has; what it passes on after that is delivered.
		for {
			publishOne(t, b, "nobody", "")
			select {
			case g := <-n.gaps:
				return g
			default:
				open()
			}
		}
	}()
	if gap.Subjects != nil && !slices.Equal(gap.Subjects, []string{"much"}) || gap.From.After(gap.To) {
		t.Errorf("got %+v, want one of much", gap)
	}
}

// failsFast is how long Publish takes at most to find its link silent: 1.5 seconds, and a margin for the
// machine.
const failsFast = 1700 * time.Millisecond

func TestALinkThatFallsSilentFailsPublishers(t *testing.T) {
	long.Alone(t)
	s := backend.NATS(t)
	proxy := faultproxy.New(t, s.Addr)
	p := open(t, "nats://"+proxy.Addr())
	defer p.Close()
	publishOne(t, p, "nobody", "")
	begin := time.Now()
	proxy.Swallow(faultproxy.Both)
	failed := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := p.Publish(context.Background(), broker.Message{Subject: "s"})
			failed <- err
		}()
	}
	for range 2 {
		if err := receive(t, failed); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("got %v, want %v", err, broker.ErrUnavailable)
		}
		if took := time.Since(begin); took > long.Limit(failsFast) {
			t.Errorf("Publish took %v", took)
		}
	}
}

func TestALinkThatIsSilentOneWayIsNoticedAndReplaced(t *testing.T) {
	long.Alone(t)
	s := backend.NATS(t)
	for name, d := range map[string]faultproxy.Direction{"ToServer": faultproxy.ToServer, "ToClient": faultproxy.ToClient} {
		t.Run(name, func(t *testing.T) {
			long.Alone(t)
			p := faultproxy.New(t, s.Addr)
			n := run(t, open(t, "nats://"+p.Addr()), make(chan broker.Message, 10))
			n.subscribe(t, "s")
			begin := time.Now()
			p.Swallow(d) // for ever, as a router that has forgotten the connection
			if _, err := n.Publish(t.Context(), broker.Message{Subject: "s"}); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("Publish: got %v, want %v", err, broker.ErrUnavailable)
			}
			if took := time.Since(begin); took > long.Limit(failsFast) {
				t.Errorf("Publish took %v", took)
			}
			if err := receive(t, n.states); err == nil {
				t.Fatal("State: got nil, want an error")
			}
			if took := time.Since(begin); took > long.Limit(3500*time.Millisecond) {
				t.Errorf("noticed after %v", took)
			}
			p.Heal() // for connections that are new
			if err := receive(t, n.states); err != nil {
				t.Fatalf("State: got %v, want nil", err)
			}
			if gap := receive(t, n.gaps); gap.From.After(begin) || gap.Subjects != nil {
				t.Errorf("got %+v, want one of all subjects that begins before %v", gap, begin)
			}
			if reach := settled(t, n, "s", ""); reach.Nodes != 1 {
				t.Errorf("afterwards: got %v", reach)
			}
		})
	}
}
