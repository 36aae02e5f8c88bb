package redis

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// topology says which server has which part of the subjects, and how far the counts of servers can be
// trusted. There are three: the server behind a name (fixed), the master that Sentinels name (sentinels),
// and the masters of a Cluster (cluster). All methods may be called concurrently.
type topology interface {
	// now returns which server has what, as far as that is known; nil, and perhaps why, while nothing is.
	now() (*routes, error)

	// fresh is now, after waiting for news that are recent enough for counts to be exact.
	fresh(ctx context.Context) (*routes, error)

	// refresh asks again if it is time to, and recheck at once, as something has failed. They do not wait.
	refresh()
	recheck()

	// dial connects to a server.
	dial(ctx context.Context, s *server) (*conn, error)

	// left says why a connection is no longer where everybody meets, and since when that may be; nil: it is.
	left(c *conn) (since time.Time, why error)

	// sure reports whether a count of a partition that has just been read from c is the whole truth, provided
	// that the server is a master and has been reached all the time.
	sure(c *conn, part uint8) bool

	// moved is told that a server redirects messages of partitions. It returns which server has what when it has asked.
	moved(ctx context.Context, parts ...uint8) *routes

	// ended is told that a server has ended subscriptions of a partition by itself, or redirects them.
	ended(s *server, part uint8)

	// leftSince is since when messages of a partition may have been published elsewhere, if it has moved.
	leftSince(part uint8) time.Time

	// leaseKeys are the keys that have the leases of the nodes at a server, see [lease].
	leaseKeys(s *server) []string

	// close ends publishing; wait returns when nothing is left of it.
	close()
	wait()
}

// routes says which server has each partition; nil: none.
type routes struct {
	publish   []*server // where messages are published
	subscribe []*server // where subjects are subscribed
}

// inquiry is a question that is asked again and again, by one goroutine at a time.
type inquiry struct {
	life *life
	ask  func() // immutable

	base  time.Time    // immutable
	begun atomic.Int64 // when it was last asked, ns since base

	mu     sync.Mutex
	asking chan struct{} // guarded by mu; closed when the answer is there; nil: it is not asked
	again  bool          // guarded by mu; it is to be asked once more
}

// clock is the time since base.
func (q *inquiry) clock() time.Duration { return time.Since(q.base) }

// age is how long ago the question was asked last.
func (q *inquiry) age() time.Duration { return q.clock() - time.Duration(q.begun.Load()) }

// after asks if the last time is at least d ago.
func (q *inquiry) after(d time.Duration) {
	if q.age() >= d {
		q.start()
	}
}

// start asks, unless that is being done. The channel is closed when the answer is there.
func (q *inquiry) start() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asking != nil {
		return q.asking
	}
	done := make(chan struct{})
	q.begun.Store(int64(q.clock()))
	if !q.life.Go(func() { q.run(done) }) {
		close(done)
		return done
	}
	q.asking = done
	return done
}

// restart asks, and if that is being done once more, as the answer may be from before.
func (q *inquiry) restart() {
	q.mu.Lock()
	q.again = q.asking != nil
	q.mu.Unlock()
	q.start()
}

func (q *inquiry) run(done chan struct{}) {
	defer close(done)
	for again := true; again; {
		q.ask()
		q.mu.Lock()
		if again, q.again = q.again, false; !again {
			q.asking = nil
		}
		q.mu.Unlock()
	}
}

// await waits for an answer, for as long at most.
func (q *inquiry) await(ctx context.Context, patience time.Duration) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-q.start():
	case <-ctx.Done():
		return ctx.Err()
	case <-q.life.Closing():
	case <-timeout.C:
	}
	return nil
}
