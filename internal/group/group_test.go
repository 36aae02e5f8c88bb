package group

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestWaitWaitsForAllThatWasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		release := make(chan struct{})
		for range 3 {
			if !g.Go(func() { <-release }) {
				t.Fatal("an open group refuses")
			}
		}
		if got := g.Len(); got != 3 {
			t.Errorf("%d run, want 3", got)
		}
		waited := make(chan struct{})
		go func() { g.Wait(); close(waited) }()
		if !g.Close() || g.Close() {
			t.Error("Close does not say which call is the first")
		}
		<-g.Closing()
		if g.Go(func() { t.Error("a closed group starts something") }) {
			t.Error("a closed group says that it starts something")
		}
		synctest.Wait()
		select {
		case <-waited:
			t.Error("Wait returned too early")
		default:
		}
		close(release)
		<-waited
		g.Wait() // again
		if got := g.Len(); got != 0 {
			t.Errorf("%d run after the end", got)
		}
	})
}

func TestWaitForEndsWithItsContext(t *testing.T) {
	var g Group
	release := make(chan struct{})
	g.Go(func() { <-release })
	g.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.WaitFor(ctx); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := g.WaitFor(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAnEmptyGroupIsDoneWhenItIsClosed(t *testing.T) {
	var g Group
	g.Close()
	g.Wait()
}

// Close races with Go: what Go has started has ended when Wait returns.
func TestNothingStartsBehindClose(t *testing.T) {
	for range 200 {
		var g Group
		var running atomic.Int64
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for g.Go(func() { running.Add(1); running.Add(-1) }) {
				}
			})
		}
		g.Close()
		g.Wait()
		if n := running.Load(); n != 0 {
			t.Fatalf("%d run after Wait", n)
		}
		callers.Wait()
	}
}
