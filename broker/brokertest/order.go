package brokertest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"tether/broker"
)

var order = []test{
	{"each publisher's order holds on each subject", testOrder},
	{"goroutines that share a publisher keep their own order", testSharedPublisher},
	{"order holds behind a Deliver that blocks", testBlockedOrder},
}

func testOrder(t *testing.T, h Harness) {
	const publishers, each = 4, 2000
	nodes := []*node{start(t, h), start(t, h)}
	names := []string{"order:0", "order:1", "order:2"}
	for _, n := range nodes {
		n.subscribe(names...)
	}
	done := make(chan error, publishers)
	for p := range publishers {
		b := publisher(t, h)
		go func() { done <- publishSequence(b, strconv.Itoa(p), names, each) }()
	}
	for range publishers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	checkSequences(t, nodes, names, publishers, each)
}

func testSharedPublisher(t *testing.T, h Harness) {
	const goroutines, each = 16, 500
	n, b := start(t, h), publisher(t, h)
	names := []string{"shared:0", "shared:1"}
	n.subscribe(names...)
	done := make(chan error, goroutines)
	for p := range goroutines {
		go func() { done <- publishSequence(b, strconv.Itoa(p), names, each) }()
	}
	for range goroutines {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	checkSequences(t, []*node{n}, names, goroutines, each)
}

// publishSequence publishes "name/0", "name/1", … on every subject, in calls of one and of several.
func publishSequence(b broker.Broker, name string, subjects []string, each int) error {
	for i := 0; i < each; {
		width := min(1+i%7, each-i)
		var msgs []broker.Message
		for range width {
			for _, s := range subjects {
				msgs = append(msgs, broker.Message{Subject: s, Data: []byte(name + "/" + strconv.Itoa(i))})
			}
			i++
		}
		reach, err := b.Publish(context.Background(), msgs...)
		if err != nil || len(reach) != len(msgs) {
			return fmt.Errorf("%d reaches for %d messages, %w", len(reach), len(msgs), errors.Join(err))
		}
	}
	return nil
}

// checkSequences checks that every message of every publisher arrived at every node, once, in order.
func checkSequences(t *testing.T, nodes []*node, subjects []string, publishers, each int) {
	t.Helper()
	for _, n := range nodes {
		n.awaitCount(publishers * each * len(subjects))
		for _, s := range subjects {
			next := make(map[string]int)
			for _, data := range n.received(s) {
				p, seq, _ := strings.Cut(data, "/")
				if seq != strconv.Itoa(next[p]) {
					t.Fatalf("%s: got %s of publisher %s, want %d", s, seq, p, next[p])
				}
				next[p]++
			}
			for p, count := range next {
				if count != each {
					t.Errorf("%s: %d of publisher %s, want %d", s, count, p, each)
				}
			}
		}
	}
}

func testBlockedOrder(t *testing.T, h Harness) {
	const each = 500
	var (
		got     []string // written by Deliver, one at a time
		entered = make(chan struct{})
		release = make(chan struct{})
		all     = make(chan struct{})
	)
	b, p := h.New(t), publisher(t, h)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	ended := make(chan error, 1)
	go func() {
		ended <- b.Run(ctx, broker.Handler{Deliver: func(m broker.Message) {
			if len(got) == 0 {
				close(entered)
				<-release
			}
			if got = append(got, string(m.Data)); len(got) == each {
				close(all)
			}
		}})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		closeBroker(t, b)
	}()
	if err := b.Subscribe(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	published := make(chan error, 1)
	go func() {
		for i := range each {
			if _, err := tryPublish(p, "s", strconv.Itoa(i)); err != nil {
				published <- err
				return
			}
		}
		published <- nil
	}()
	<-entered
	close(release)
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Fatal("messages are missing")
	}
	for i := range got {
		if got[i] != strconv.Itoa(i) {
			t.Fatalf("got %s, want %d", got[i], i)
		}
	}
}
