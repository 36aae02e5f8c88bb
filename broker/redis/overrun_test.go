package redis_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"tether/broker"
	"tether/internal/backend"
)

// TestANodeDoesNotPublishMoreThanItReads: hundreds of emitters, flat out, of users on their own node, which takes its
// time with each message. They wait; Redis has no reason to cut the node off, and nothing is lost.
func TestANodeDoesNotPublishMoreThanItReads(t *testing.T) {
	s := backend.Redis(t, "--client-output-buffer-limit", "pubsub 8mb 0 0") // a quarter of the default
	const (
		emitters = 100
		each     = 1000
		batch    = 50
		size     = 1 << 10
		work     = 16 // hashes of a message
	)
	b := node(t, s.Addr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got atomic.Int64
	all, ended := make(chan struct{}), make(chan error, 1)
	go func() { // until cancel
		ended <- b.Run(ctx, broker.Handler{
			Deliver: func(m broker.Message) {
				for range work {
					sha256.Sum256(m.Data)
				}
				if got.Add(1) == emitters*each {
					close(all)
				}
			},
			Gap: func(g broker.Gap) { t.Errorf("a gap: %v", g.Cause) },
		})
	}()
	var subjects [emitters]string
	for i := range subjects {
		subjects[i] = "user:" + strconv.Itoa(i)
	}
	if err := b.Subscribe(ctx, subjects[:]...); err != nil {
		t.Fatal(err)
	}
	payload := bytes.Repeat([]byte("x"), size)
	var running sync.WaitGroup
	for _, subject := range subjects {
		running.Go(func() {
			msgs := slices.Repeat([]broker.Message{{Subject: subject, Data: payload}}, batch)
			for range each / batch {
				reach, err := b.Publish(ctx, msgs...)
				if err != nil || slices.ContainsFunc(reach, func(r broker.Receipt) bool { return r.Nodes != 1 }) {
					t.Errorf("got %v for the first, %v", reach[0], err)
					return
				}
			}
		})
	}
	running.Wait()
	if !t.Failed() {
		<-all
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if n := got.Load(); n != emitters*each {
		t.Errorf("%d messages have come, want %d", n, emitters*each)
	}
}
