package redis

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookTime is between two looks of a keeper.
	lookTime = 500 * time.Millisecond

	// staleTime is the age of the last look at which a publisher waits for a new one.
	staleTime = 1500 * time.Millisecond

	// restTime is how long a server is looked after that nobody uses.
	restTime = time.Minute
)

// keeper looks after a server while there is a session, or messages are published: it asks whether the server
// is still the one where everybody meets, renews the lease of this node, and has those dropped that are dead. It
// has a connection of its own.
type keeper struct {
	s     *server
	looks inquiry
	used  atomic.Int64 // when it was last woken, as the clock of looks has it
	ended atomic.Int64 // likewise, when the last look began that has ended; 0: none has
	lease lease

	c      *conn     // owned by the look; nil: none
	master time.Time // owned by the look; when the server was last known to be a master
	server string    // owned by the look; the run id of the server

	watched time.Time // owned by the look; when the files of TLS were last looked at

	mu      sync.Mutex
	running bool // guarded by mu
}

func newKeeper(s *server) *keeper {
	k := &keeper{s: s, lease: lease{s: s}}
	k.looks = inquiry{life: s.life, ask: k.look, base: time.Now()}
	return k
}

// wake says that the server is used.
func (k *keeper) wake() {
	k.used.Store(int64(k.looks.clock()))
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.running {
		k.running = k.s.life.Go(k.run)
	}
}

// await returns when what is known of the server is not old. It does not wait for long.
func (k *keeper) await() {
	k.wake()
	if at := time.Duration(k.ended.Load()); at == 0 || k.looks.clock()-at > staleTime {
		k.ask()
	}
}

// ask looks now, and returns soon.
func (k *keeper) ask() { _ = k.looks.await(context.Background(), k.s.o.DialTimeout) }

// lend gives a new session its lease, unless that takes long.
func (k *keeper) lend(ctx context.Context) {
	k.looks.restart()
	_ = k.looks.await(ctx, k.s.o.DialTimeout)
	k.wake()
}

// run looks again and again until the server is not used any more.
func (k *keeper) run() {
	tick := time.NewTicker(lookTime)
	defer tick.Stop()
	for k.needed() {
		k.looks.start()
		select {
		case <-tick.C:
		case <-k.s.life.Closing():
		}
	}
}

// stop ends run soon.
func (k *keeper) stop() { k.used.Store(-int64(restTime)) }

// needed reports whether run must go on. After false wake starts it anew.
func (k *keeper) needed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	used := k.s.session.Load() != nil || k.looks.clock()-time.Duration(k.used.Load()) < restTime
	k.running = used && !k.s.life.closing()
	return k.running
}

// look is one look.
func (k *keeper) look() {
	begin := time.Now()
	k.s.topology.refresh()
	if k.s.files != nil && begin.Sub(k.watched) > time.Minute {
		k.watched = begin
		k.s.files.Watch()
	}
	if err := k.visit(begin); err != nil && k.c != nil {
		k.c.nc.Close()
		k.c = nil
		k.s.fail()
	}
	if s := k.s.session.Load(); s != nil {
		if since, why := k.s.topology.left(s.c); why != nil {
			s.failFrom(why, since)
		}
	}
	k.ended.Store(int64(begin.Sub(k.looks.base)))
}

// visit asks the server.
func (k *keeper) visit(begin time.Time) error {
	if k.c != nil {
		if _, why := k.s.topology.left(k.c); why != nil {
			return why
		}
	} else {
		c, err := k.s.topology.dial(context.Background(), k.s)
		if err != nil {
			return err
		}
		if k.server != "" && k.server != c.server {
			k.s.fail() // it has been started again, or is another one: not all may be back yet
		}
		k.c, k.master, k.server = c, begin, c.server
	}
	if _, err := k.s.probe(k.c); err != nil {
		if s := k.s.session.Load(); s != nil && errors.Is(err, errReplica) && !k.s.channels.sharded {
			s.failFrom(err, k.master)
		}
		return err
	}
	k.master = begin
	return k.lease.keep(k.c)
}
