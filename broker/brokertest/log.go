package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"tether/broker"
)

// RunLog runs the suite of [broker.Logger]. Open returns one more node, with those options, on one backend that all
// nodes share; the suite runs and closes it. It may skip what the backend cannot bound.
func RunLog(t *testing.T, open func(t *testing.T, o broker.LogOptions) broker.Broker) {
	for name, f := range map[string]func(*testing.T, func(*testing.T, broker.LogOptions) broker.Broker){
		"one order for all":            testOneOrder,
		"what is kept is read":         testRead,
		"bounds":                       testBounds,
		"a record has one owner":       testRecords,
		"a broker without one says so": testNoLog,
	} {
		t.Run(name, func(t *testing.T) { f(t, open) })
	}
}

var wide = broker.LogOptions{Age: 1 << 40}

// logOf opens a node that is not run, and its log.
func logOf(t *testing.T, b broker.Broker) broker.Log {
	t.Helper()
	t.Cleanup(func() { b.Close() })
	l, err := b.(broker.Logger).Log()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// testOneOrder has several publishers publish to many subjects, and compares what two nodes get with what is kept.
func testOneOrder(t *testing.T, open func(*testing.T, broker.LogOptions) broker.Broker) {
	const subjects, publishers, each = 20, 4, 200
	names := make([]string, subjects)
	for i := range names {
		names[i] = fmt.Sprint(t.Name(), " ", i)
	}
	total := publishers * each * 5 / 4
	first, second := takeAll(t, open, names, total), takeAll(t, open, names, total)
	out := open(t, wide)
	l := logOf(t, out)
	head, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for i := range each {
				name := names[(p*7+i*3)%subjects]
				m := broker.Message{Subject: name, Data: []byte(strconv.Itoa(i)), Log: name, Place: 1}
				msgs := []broker.Message{m}
				if i%4 == 0 { // one that is not kept, and has a place or none
					msgs = append(msgs, broker.Message{Subject: name, Place: uint64(i / 4 % 2)})
				}
				if r, err := out.Publish(t.Context(), msgs...); err != nil || r[0] != (broker.Receipt{Nodes: 2}) && r[0] != (broker.Receipt{Nodes: 1, Bound: broker.AtLeast}) {
					t.Errorf("%v, %v", r, err)
				}
			}
		})
	}
	publishing.Wait()
	got := [2][]broker.Message{<-first, <-second}
	parts := make([]broker.Part, subjects)
	for i := range parts {
		parts[i] = broker.Part{Log: names[i], After: head}
	}
	kept, last, err := l.Read(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	for i, msgs := range got {
		compareWithLog(t, i, msgs, kept, last)
	}
}

// takeAll subscribes a node to the subjects. The channel has the messages that it got, when they are n.
func takeAll(t *testing.T, open func(*testing.T, broker.LogOptions) broker.Broker, names []string, n int) <-chan []broker.Message {
	b := open(t, wide)
	ctx, cancel := context.WithCancel(t.Context())
	all, ended := make(chan []broker.Message, 1), make(chan error)
	var mu sync.Mutex
	var got []broker.Message
	go func() { // waited for by the cleanup
		ended <- b.Run(ctx, broker.Handler{Deliver: func(m broker.Message) {
			mu.Lock()
			defer mu.Unlock()
			if got = append(got, m.Own()); len(got) == n {
				all <- got
			}
		}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		b.Close()
	})
	for _, err := range b.Subscribe(t.Context(), names...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// compareWithLog checks that a node got what is kept, and in its order.
func compareWithLog(t *testing.T, node int, got, kept []broker.Message, last uint64) {
	t.Helper()
	var at uint64
	for _, m := range got {
		if m.Place != 0 && m.Place <= at || m.Place > last {
			t.Fatalf("node %d got a message at %d behind one at %d, the head is %d", node, m.Place, at, last)
		}
		at = max(at, m.Place)
	}
	with := slices.DeleteFunc(slices.Clone(got), func(m broker.Message) bool { return len(m.Data) == 0 })
	if !slices.EqualFunc(with, kept, func(a, b broker.Message) bool {
		return a.Place == b.Place && a.Subject == b.Subject && string(a.Data) == string(b.Data) && b.Log == b.Subject
	}) {
		t.Errorf("node %d got another %d messages than the %d that are kept", node, len(with), len(kept))
	}
}

func testRead(t *testing.T, open func(*testing.T, broker.LogOptions) broker.Broker) {
	b := open(t, wide)
	l := logOf(t, b)
	ctx := t.Context()
	start, err := l.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	subject, other := t.Name()+" x", t.Name()+" y"
	var msgs []broker.Message
	for i := range 5 {
		msgs = append(msgs, broker.Message{Subject: "sent elsewhere", Data: []byte{byte(i), '\r', '\n', 0xff}, Log: subject, Place: 1})
	}
	if _, err := b.Publish(ctx, msgs...); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(ctx, broker.Message{Subject: other, Data: []byte("y"), Log: other, Place: 1}); err != nil {
		t.Fatal(err)
	}
	read := func(parts ...broker.Part) []broker.Message {
		t.Helper()
		got, head, err := l.Read(ctx, parts)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got {
			if m.Place <= start || m.Place > head {
				t.Errorf("a place of %d between %d and %d", m.Place, start, head)
			}
		}
		return got
	}
	got := read(broker.Part{Log: other, After: start}, broker.Part{Log: subject, After: start}, broker.Part{Log: "none", After: start})
	if len(got) != 6 || got[0].Subject != "sent elsewhere" || string(got[4].Data) != "\x04\r\n\xff" || got[5].Log != other {
		t.Fatalf("read %+v", got)
	}
	if rest := read(broker.Part{Log: subject, After: got[2].Place}); len(rest) != 2 || string(rest[0].Data) != string(got[3].Data) {
		t.Errorf("behind the third %+v", rest)
	}
	head, err := l.Head(ctx)
	if rest := read(broker.Part{Log: subject, After: head}); err != nil || head < got[5].Place || len(rest) != 0 {
		t.Errorf("behind the head %d, %v: %+v", head, err, rest)
	}
	for _, after := range []uint64{0, 1, start + 1<<50} {
		if _, _, err := l.Read(ctx, []broker.Part{{Log: subject, After: after}}); !errors.Is(err, broker.ErrForgotten) {
			t.Errorf("from %d on: %v", after, err)
		}
	}
}

func testBounds(t *testing.T, open func(*testing.T, broker.LogOptions) broker.Broker) {
	for name, o := range map[string]broker.LogOptions{"length": {Age: wide.Age, Length: 3}, "bytes": {Age: wide.Age, Bytes: 3500}} {
		t.Run(name, func(t *testing.T) { testBound(t, open(t, o)) })
	}
}

// testBound expects that three of five messages are kept.
func testBound(t *testing.T, b broker.Broker) {
	l := logOf(t, b)
	start, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	subject := t.Name()
	for i := range 5 {
		if _, err := b.Publish(t.Context(), broker.Message{Subject: subject, Data: []byte(strings.Repeat("x", 1000) + strconv.Itoa(i)), Log: subject, Place: 1}); err != nil {
			t.Fatal(err)
		}
		_, _, err := l.Read(t.Context(), []broker.Part{{Log: subject, After: start}})
		if forgotten := errors.Is(err, broker.ErrForgotten); forgotten != (i >= 3) || err != nil && !forgotten {
			t.Errorf("after %d messages: %v", i+1, err)
		}
	}
	// What is behind the last one that was dropped is all there.
	all, _, err := l.Read(t.Context(), []broker.Part{{Log: subject, After: lastDropped(t, l, subject)}})
	if err != nil || len(all) != 3 || !strings.HasSuffix(string(all[2].Data), "x4") {
		t.Errorf("%v, %+v", err, all)
	}
}

// lastDropped finds the earliest place that the log reaches back to.
func lastDropped(t *testing.T, l broker.Log, subject string) uint64 {
	high, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	low := high - 60e6
	for low < high {
		at := (low + high) / 2
		if _, _, err := l.Read(t.Context(), []broker.Part{{Log: subject, After: at}}); err != nil {
			low = at + 1
		} else {
			high = at
		}
	}
	return low
}

func testRecords(t *testing.T, open func(*testing.T, broker.LogOptions) broker.Broker) {
	l := logOf(t, open(t, wide))
	ctx, key := t.Context(), t.Name()
	value := func(owner string, version int, value string) broker.Record {
		return broker.Record{Owner: owner, Version: uint64(version), Value: []byte(value)}
	}
	save := func(was string, r broker.Record, want bool) {
		t.Helper()
		if ok, err := l.Save(ctx, key, was, r); err != nil || ok != want {
			t.Errorf("saving %s version %d: %v, %v", r.Owner, r.Version, ok, err)
		}
	}
	check := func(owner, value string) {
		t.Helper()
		if r, err := l.Load(ctx, key); err != nil || r.Owner != owner || string(r.Value) != value {
			t.Errorf("it is %+v, %v; want %s's %q", r, err, owner, value)
		}
	}
	check("", "")
	save("a", value("b", 1, "taken"), false) // there is nothing to take
	save("", value("a", 1, "one\r\n\xff"), true)
	check("a", "one\r\n\xff")
	save("", value("a", 3, "three"), true)
	save("", value("a", 2, "late"), true)
	check("a", "three")
	save("", value("b", 4, "b's"), false)
	save("c", value("b", 4, "b's"), false)
	check("a", "three")
	save("a", value("b", 4, "b's"), true)
	save("", value("a", 5, "a's again"), false)
	if err := l.Drop(ctx, key, "a"); err != nil {
		t.Error(err)
	}
	check("b", "b's")
	if err := l.Drop(ctx, key, "b"); err != nil {
		t.Error(err)
	}
	check("", "")
}

func testNoLog(t *testing.T, open func(*testing.T, broker.LogOptions) broker.Broker) {
	b := open(t, broker.LogOptions{})
	defer b.Close()
	if l, ok := b.(broker.Logger); ok {
		if _, err := l.Log(); !errors.Is(err, broker.ErrNoLog) {
			t.Errorf("Log: %v", err)
		}
	}
}
