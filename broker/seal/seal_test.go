package seal

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/drivers"
	"tether/broker/memory"
	"tether/internal/backend"
	"tether/internal/deptest"
)

func TestNeedsTheBrokerOnly(t *testing.T) { deptest.Only(t, "tether/broker/seal", "tether/broker") }

// modes are the ways to send with a key.
var modes = map[string]bool{"authenticated": false, "sealed": true}

func TestBrokerContract(t *testing.T) {
	for mode, seal := range modes {
		t.Run(mode, func(t *testing.T) { brokertest.Run(t, harness(Keys{Current: GenerateKey(), Seal: seal})) })
	}
}

func harness(k Keys) brokertest.Harness {
	bus := memory.NewBus()
	return brokertest.Harness{New: func(testing.TB) broker.Broker { return New(bus.Broker(), Options{Keys: k}) }}
}

// wall is a clock that a test sets.
type wall struct{ off time.Duration }

func (w *wall) now() time.Time { return time.Now().Add(w.off) }

// rig is one node, what it takes and says, and a stranger who hears and says what he likes.
type rig struct {
	t    testing.TB
	bus  *memory.Bus
	node *Broker
	log  *bytes.Buffer
	wall wall

	stranger broker.Broker

	mu  sync.Mutex
	got []string       // guarded by mu; subject and body
	tap broker.Message // guarded by mu; what the stranger has heard last
}

const subject = "tether:/,user:42"

func newRig(t testing.TB, k Keys) *rig {
	r := &rig{t: t, bus: memory.NewBus(), log: &bytes.Buffer{}}
	r.node = New(r.bus.Broker(), Options{Keys: k, Time: r.wall.now, Logger: slog.New(slog.NewTextHandler(r.log, nil))})
	r.run(r.node, func(m broker.Message) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, m.Subject+" "+string(m.Data))
	})
	r.stranger = r.bus.Broker()
	r.run(r.stranger, func(m broker.Message) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.tap = m.Own()
	})
	return r
}

func (r *rig) run(b broker.Broker, deliver func(broker.Message)) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx, broker.Handler{Deliver: deliver}) }() // until the test ends
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
		b.Close()
	})
	if errs := b.Subscribe(context.Background(), subject, subject+"3"); errs != nil {
		r.t.Fatal(errs)
	}
}

// other is one more node's way to publish.
func (r *rig) other(k Keys) *Broker {
	b := New(r.bus.Broker(), Options{Keys: k, Time: r.wall.now})
	r.t.Cleanup(func() { b.Close() })
	return b
}

func publish(t testing.TB, b broker.Broker, msgs ...broker.Message) {
	t.Helper()
	if _, err := b.Publish(context.Background(), msgs...); err != nil {
		t.Fatal(err)
	}
}

func text(s string) broker.Message { return broker.Message{Subject: subject, Data: []byte(s)} }

func (r *rig) heard() broker.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tap
}

// send publishes a text, and returns what the stranger has heard of it.
func (r *rig) send(b broker.Broker, s string) broker.Message {
	r.t.Helper()
	publish(r.t, b, text(s))
	return r.heard()
}

// expect compares what the node has taken since the last call, and refused.
func (r *rig) expect(refused uint64, bodies ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var want []string
	for _, b := range bodies {
		want = append(want, subject+" "+b)
	}
	if !slices.Equal(r.got, want) {
		r.t.Errorf("got %q, want %q", r.got, want)
	}
	if n := r.node.Refused(); n != refused {
		r.t.Errorf("%d messages were refused, want %d", n, refused)
	}
	r.got = nil
}

func TestNodesWithOneKeyUnderstandEachOther(t *testing.T) {
	for mode, seal := range modes {
		t.Run(mode, func(t *testing.T) {
			k := Keys{Current: GenerateKey(), Seal: seal}
			r := newRig(t, k)
			first := r.send(r.other(k), "one")
			r.send(r.node, "two")
			r.expect(0, "one", "two")
			if len(first.Data) != len("one")+Overhead {
				t.Errorf("a message has grown by %d bytes, want %d", len(first.Data)-len("one"), Overhead)
			}
			if read := bytes.Contains(first.Data, []byte("one")); read == seal {
				t.Errorf("the stranger has read the body: %v", read)
			}
		})
	}
}

// passing is a driver that notes what it is given.
type passing struct {
	broker.Broker
	last broker.Message
}

func (p *passing) Publish(_ context.Context, m ...broker.Message) ([]broker.Receipt, error) {
	p.last = m[len(m)-1]
	return make([]broker.Receipt, len(m)), nil
}

// TestASealedMessageHasNoOpenTrace: a driver sends a trace in the headers of its backend, which nothing seals.
func TestASealedMessageHasNoOpenTrace(t *testing.T) {
	trace := &broker.Trace{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	k := GenerateKey()
	for mode, row := range map[string]struct {
		keys Keys
		want *broker.Trace
	}{
		"no key":                      {Keys{}, trace},
		"authenticated":               {Keys{Current: k}, trace},
		"sealed":                      {Keys{Current: k, Seal: true}, nil},
		"sealed, and not begun to be": {Keys{Current: k, Seal: true, Plain: SendPlain}, trace},
	} {
		for _, lent := range []bool{false, true} {
			driver := new(passing)
			m := text("x")
			m.Trace, m.Lent = trace, lent
			publish(t, New(driver, Options{Keys: row.keys}), m)
			if driver.last.Trace != row.want || m.Trace != trace {
				t.Errorf("%s, lent %v: the driver is given the trace %v", mode, lent, driver.last.Trace)
			}
		}
	}
}

func TestWithoutAKeyMessagesAreAsTheyWere(t *testing.T) {
	r := newRig(t, Keys{})
	m := text("one")
	publish(t, r.node, m)
	if heard := r.heard(); !bytes.Equal(heard.Data, m.Data) {
		t.Errorf("got %q, want %q", heard.Data, m.Data)
	}
	r.expect(0, "one")
}

func TestAStrangerIsRefused(t *testing.T) {
	for mode, seal := range modes {
		t.Run(mode, func(t *testing.T) {
			k := Keys{Current: GenerateKey(), Seal: seal}
			r := newRig(t, k)
			heard := r.send(r.other(k), "one")
			r.expect(0, "one")

			publish(t, r.stranger, text("plain"))
			r.expect(1)
			publish(t, r.stranger, heard)
			r.expect(2) // it has come
			publish(t, r.stranger, broker.Message{Subject: subject + "3", Data: heard.Data})
			r.expect(3)
			for i := range heard.Data { // each byte counts
				changed := bytes.Clone(heard.Data)
				changed[i] ^= 1
				publish(t, r.stranger, broker.Message{Subject: subject, Data: changed})
			}
			for i := range heard.Data {
				publish(t, r.stranger, broker.Message{Subject: subject, Data: heard.Data[:i]})
			}
			r.expect(3 + 2*uint64(len(heard.Data)))
			publish(t, r.other(Keys{Current: GenerateKey(), Seal: seal}), text("another key"))
			r.expect(4 + 2*uint64(len(heard.Data)))
			r.send(r.node, "still there")
		})
	}
}

// It is what a message is worth that was held up, and is let go.
func TestAMessageIsGoodForAMinute(t *testing.T) {
	k := Keys{Current: GenerateKey()}
	r := newRig(t, k)
	other := r.other(k)
	if errs := r.node.Unsubscribe(t.Context(), subject); errs != nil {
		t.Fatal(errs)
	}
	young, old := r.send(other, "young"), r.send(other, "old")
	if errs := r.node.Subscribe(t.Context(), subject); errs != nil {
		t.Fatal(errs)
	}
	r.wall.off = Window - time.Second
	publish(t, r.stranger, young)
	r.expect(0, "young")
	r.wall.off = Window + time.Second
	publish(t, r.stranger, young, old)
	r.expect(2)
	if log := r.log.String(); !strings.Contains(log, "more than a minute from the clock of this node") || !strings.Contains(log, "NTP") {
		t.Errorf("the log does not say what to do: %s", log)
	}
	r.wall.off = 0
}

func TestKeysAreRotatedWithoutLosingAMessage(t *testing.T) {
	first, second := GenerateKey(), GenerateKey()
	steps := []Keys{
		{Current: first},
		{Current: first, Accept: []Key{second}},
		{Current: second, Accept: []Key{first}},
		{Current: second},
	}
	for i := 1; i < len(steps); i++ { // some nodes have taken a step, some have not
		was, is := newRig(t, steps[i-1]), newRig(t, steps[i])
		for _, r := range []*rig{was, is} {
			r.send(r.other(steps[i-1]), "by a node before the step")
			r.send(r.other(steps[i]), "by a node behind it")
			r.expect(0, "by a node before the step", "by a node behind it")
		}
	}
	r := newRig(t, steps[3])
	r.send(r.other(steps[0]), "with a key that has been given up")
	r.expect(1)
}

func TestAClusterGetsItsFirstKeyWithoutLosingAMessage(t *testing.T) {
	k := GenerateKey()
	steps := []Keys{
		{},
		{Current: k, Plain: SendPlain},
		{Current: k, Plain: AcceptPlain},
		{Current: k},
	}
	for i := 1; i < len(steps); i++ {
		was, is := newRig(t, steps[i-1]), newRig(t, steps[i])
		for _, r := range []*rig{was, is} {
			r.send(r.other(steps[i-1]), "by a node before the step")
			r.send(r.other(steps[i]), "by a node behind it")
			r.expect(0, "by a node before the step", "by a node behind it")
		}
	}
}

func TestANodeAmongOthersWithAnotherKeySaysSo(t *testing.T) {
	k, wrong := Keys{Current: GenerateKey()}, Keys{Current: GenerateKey()}
	for _, c := range []struct {
		name      string
		own, them Keys
		says      []string
	}{
		{"another key", wrong, k, []string{"they have a key that this node does not have", k.Current.ID(), wrong.Current.ID()}},
		{"no key", Keys{}, k, []string{"they have a key that this node does not have", k.Current.ID(), "own=none"}},
		{"a key among none", k, Keys{}, []string{"they have no key, and this node has one", "docs/trust.md"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.own)
			r.send(r.node, "hello")
			r.expect(0, "hello")
			if err := r.node.Err(); err != nil {
				t.Errorf("alone: %v", err)
			}
			them := r.other(c.them)
			for range 3 {
				r.send(them, "they")
			}
			r.expect(3)
			if n := strings.Count(r.log.String(), "WARN"); n != 1 {
				t.Errorf("%d warnings in the log, want one: %s", n, r.log)
			}
			for _, want := range c.says {
				if !strings.Contains(r.log.String(), want) {
					t.Errorf("got %q, want %q in it", r.log, want)
				}
			}
			if err := r.node.Err(); err == nil || !strings.Contains(err.Error(), c.says[0]) {
				t.Errorf("got %v, want %q", err, c.says[0])
			}
		})
	}
}

// A newcomer with a wrong key must not take the nodes out of service that have been there.
func TestOnlyANewcomerIsToldThatItIsAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r refusals
		r.begin()
		r.add(otherKey)
		if why, stranger := r.stranger(); !stranger || why != otherKey {
			t.Errorf("a newcomer: %v, %v", why, stranger)
		}
		time.Sleep(silentTime)
		if _, stranger := r.stranger(); stranger {
			t.Error("the others are silent, and it is still told")
		}
		var old refusals
		old.begin()
		time.Sleep(beginTime)
		for range 100 {
			old.add(noKey)
		}
		if _, stranger := old.stranger(); stranger {
			t.Error("a node that had been there is told")
		}
	})
}

func TestAPublisherThatIsOverIsForgotten(t *testing.T) {
	k := Keys{Current: GenerateKey()}
	r := newRig(t, k)
	for range 10 {
		r.send(r.other(k), "once")
	}
	r.wall.off = 2*Window + time.Second
	r.send(r.other(k), "later")
	if n := len(r.node.sources); n != 1 {
		t.Errorf("%d publishers are known, want the last one", n)
	}
	r.wall.off = 0
}

func TestAWindowTakesEachNumberOnce(t *testing.T) {
	var w window
	const n = 10 * chunkSize
	for i := uint64(0); i < n; i++ { // out of order
		number := i * 7919 % n
		if !w.take(number, 0, 0) {
			t.Fatalf("%d is refused", number)
		}
		if w.take(number, 0, 0) {
			t.Fatalf("%d is taken twice", number)
		}
	}
	if len(w.chunks) != n/chunkSize {
		t.Errorf("%d chunks, want %d", len(w.chunks), n/chunkSize)
	}
	if !w.take(1<<47, windowMillis+1, windowMillis+1) {
		t.Error("a high number is refused")
	}
	if len(w.chunks) != 1 || len(w.order) != 1 {
		t.Errorf("%d chunks are left, want the new one", len(w.chunks))
	}
}

func TestKeysThatMakeNoSenseAreRefused(t *testing.T) {
	k := GenerateKey()
	for _, wrong := range []Keys{{Seal: true}, {Accept: []Key{k}}, {Plain: AcceptPlain}, {Current: k, Accept: []Key{{}}}, {Current: k, Plain: 3}} {
		if wrong.Check() == nil {
			t.Errorf("%+v: no error", wrong)
		}
	}
	for _, right := range []Keys{{}, {Current: k}, {Current: k, Accept: []Key{GenerateKey()}, Seal: true, Plain: AcceptPlain}} {
		if err := right.Check(); err != nil {
			t.Errorf("%+v: %v", right, err)
		}
	}
}

func TestAKeyIsReadAndNotPrinted(t *testing.T) {
	k := GenerateKey()
	for _, s := range []string{k.Encode(), strings.TrimRight(k.Encode(), "=")} {
		if got, err := ParseKey(s); err != nil || got != k {
			t.Errorf("got %v %v, want %v", got, err, k)
		}
	}
	for _, n := range []int{16, 24} {
		if _, err := ParseKey(base64.StdEncoding.EncodeToString(k[:n])); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, s := range []string{"", "abc", k.Encode()[4:], strings.Repeat("A", 43) + "="} {
		if _, err := ParseKey(s); err == nil || s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%q: got %v", s, err)
		}
	}
	options := Options{Keys: Keys{Current: k, Accept: []Key{k}}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d", "%q"} {
		out := fmt.Sprintf(verb, options.Keys)
		if !strings.Contains(out, k.ID()) || strings.Contains(out, fmt.Sprintf("%x", k[:4])) || strings.Contains(out, fmt.Sprint(k[:4])) {
			t.Errorf("%s prints %s", verb, out)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("", "key", k, "options", options.Keys)
	if strings.Contains(log.String(), fmt.Sprint(k[0], ",", k[1])) || strings.Count(log.String(), k.ID()) != 3 {
		t.Errorf("the log has %s", &log)
	}
}

// FuzzTake hands a node whatever anybody may send. One message alone is good: that of another node, which is the
// same in every process of the fuzzer.
func FuzzTake(f *testing.F) {
	k := Keys{Current: Key{1}}
	then := func() time.Time { return time.UnixMilli(1_700_000_000_000) }
	out := newSender(k)
	clear(out.name[len(keyID{}):])
	out.cipher = cipherOf(k.Current, out.name)
	s := new(scratch)
	out.seal(s, []broker.Message{text("one")}, then().UnixMilli())
	good := s.msgs[0]
	f.Add(subject, good.Data)
	f.Add(subject+"3", good.Data)
	f.Add(subject, []byte{version, sealed})
	f.Add(subject, []byte("plain"))
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		in := New(memory.NewBus().Broker(), Options{Keys: k, Time: then})
		kept, taken := bytes.Clone(data), 0
		in.take(broker.Message{Subject: subject, Data: data}, func(broker.Message) { taken++ })
		if !bytes.Equal(data, kept) {
			t.Error("the data was written to")
		}
		want := 0
		if subject == good.Subject && bytes.Equal(data, good.Data) {
			want = 1
		}
		if taken != want || in.Refused() != uint64(1-want) || len(in.sources) != want {
			t.Errorf("%d messages were taken, want %d; %d were refused, %d publishers are known", taken, want, in.Refused(), len(in.sources))
		}
	})
}

// FuzzRoundTrip checks that what is sent is what is taken, once, and on its subject only.
func FuzzRoundTrip(f *testing.F) {
	f.Add("a", []byte("one"), true, false)
	f.Add("", []byte{}, false, true)
	f.Fuzz(func(t *testing.T, subject string, data []byte, seal, lent bool) {
		b := New(memory.NewBus().Broker(), Options{Keys: Keys{Current: Key{1}, Seal: seal}})
		s := new(scratch)
		msgs := []broker.Message{{Subject: subject, Data: data, Lent: lent}, {Subject: "second", Data: data, Lent: lent}}
		b.out.seal(s, msgs, time.Now().UnixMilli())
		var got []broker.Message
		keep := func(m broker.Message) { got = append(got, m.Own()) }
		for _, m := range s.msgs {
			b.take(broker.Message{Subject: m.Subject + "x", Data: m.Data}, keep)
			b.take(m, keep)
			b.take(m, keep)
		}
		for i := range got {
			got[i].Lent = lent
			if len(got[i].Data) == 0 {
				got[i].Data = data
			}
		}
		if !reflect.DeepEqual(got, msgs) || b.Refused() != 4 {
			t.Errorf("got %v, want %v; %d were refused, want 4", got, msgs, b.Refused())
		}
	})
}

// BenchmarkBroker is messages of 256 bytes through a broker, with a key and without.
func BenchmarkBroker(b *testing.B) {
	opened := map[string]func(testing.TB) broker.Broker{}
	bus := memory.NewBus()
	opened["memory"] = func(testing.TB) broker.Broker { return bus.Broker() }
	for name, server := range map[string]*backend.Server{"redis": backend.Redis(b), "nats": backend.NATS(b)} {
		opened[name] = func(tb testing.TB) broker.Broker {
			out, err := drivers.Mux().Open(tb.Context(), server.URL)
			if err != nil {
				tb.Fatal(err)
			}
			return out
		}
	}
	for _, on := range []string{"memory", "redis", "nats"} {
		for _, k := range []struct {
			name string
			keys Keys
		}{{"no key", Keys{}}, {"key", Keys{Current: Key{1}}}, {"seal", Keys{Current: Key{1}, Seal: true}}} {
			h := brokertest.Harness{New: func(tb testing.TB) broker.Broker { return New(opened[on](tb), Options{Keys: k.keys}) }}
			b.Run(on+"/"+k.name, func(b *testing.B) { brokertest.Benchmark(b, h) })
		}
	}
}

// BenchmarkMessage is the cost of one message at its publisher and at one node: without the broker.
func BenchmarkMessage(b *testing.B) {
	for _, size := range []int{64, 256, 1024, 16384} {
		for _, mode := range []string{"authenticated", "sealed"} {
			b.Run(fmt.Sprintf("%s/%d", mode, size), func(b *testing.B) {
				n := New(memory.NewBus().Broker(), Options{Keys: Keys{Current: GenerateKey(), Seal: modes[mode]}})
				m := []broker.Message{{Subject: subject, Data: make([]byte, size), Lent: true}}
				s := new(scratch)
				b.ReportAllocs()
				for b.Loop() {
					n.out.seal(s, m, n.now())
					n.take(s.msgs[0], func(broker.Message) {})
				}
			})
		}
	}
}
