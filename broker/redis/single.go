package redis

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"
)

// single is a topology of one server at a time, wherever that is now.
type single struct {
	dialer
	where    locator
	srv      *server
	routes   routes
	inquiry  inquiry
	every    time.Duration // between two looks at where the server is
	together time.Duration // for which all stay where they are when it has moved

	at atomic.Pointer[location] // nil: it has not been seen
}

// locator knows where the one server is.
type locator interface {
	// look asks which instance is the server now. sure says that most agree; else the answer is no evidence.
	look(ctx context.Context) (instance string, sure bool, err error)

	// instance is the one that a connection leads to; "": that cannot be known.
	instance(c *conn) string
}

// location is the instance that the server was when it was looked for last: a run id, or an address.
type location struct {
	instance string
	seen     time.Time // when it was asked for last
	moved    time.Time // when it was found to be another instance than before; zero: never
	before   time.Time // when the instance before was seen last
}

func newSingle(d dialer, every, together time.Duration) *single {
	s := &single{dialer: d, every: every, together: together}
	s.inquiry = inquiry{life: d.life, ask: s.ask, base: time.Now()}
	return s
}

// serve makes srv the server.
func (s *single) serve(srv *server, subs *subscriptions) {
	s.srv = srv
	s.routes = routes{publish: []*server{srv}, subscribe: []*server{srv}}
	subs.own([]*subscriber{srv.in})
}

func (s *single) now() (*routes, error) { return &s.routes, nil }

func (s *single) fresh(ctx context.Context) (*routes, error) {
	if at := s.at.Load(); at != nil && time.Since(at.seen) > s.together && s.inquiry.age() > s.every {
		return &s.routes, s.inquiry.await(ctx, s.o.DialTimeout)
	}
	s.refresh()
	return &s.routes, nil // if it has not been seen the first connection finds out
}

func (s *single) refresh() { s.inquiry.after(s.every) }

func (s *single) recheck() { s.inquiry.after(doubtTime) }

// doubtTime is how soon after a look there may be another one, as something has failed.
const doubtTime = 50 * time.Millisecond

func (s *single) ask() { _, _ = s.locate(context.Background()) }

// locate looks where the server is.
func (s *single) locate(ctx context.Context) (instance string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	defer s.life.onEnd(cancel)()
	begin := time.Now()
	instance, sure, err := s.where.look(ctx)
	if err == nil && sure {
		s.saw(instance, begin, never)
	}
	return instance, err
}

// never is the uptime of a server that is known by its address, and so does not change when it is started again.
const never = time.Duration(math.MaxInt64)

// saw records which instance the server was at a moment. If that has been started since, which uptime tells, the
// server has not moved: nobody is left at the old instance.
func (s *single) saw(instance string, when time.Time, uptime time.Duration) {
	for {
		old := s.at.Load()
		at := &location{instance: instance, seen: when}
		switch {
		case old == nil:
		case old.seen.After(when):
			return
		case old.instance == instance, uptime < when.Sub(old.seen)+time.Second:
			at.moved, at.before = old.moved, old.before
		default:
			at.moved, at.before = when, old.seen
		}
		if s.at.CompareAndSwap(old, at) {
			if old != nil && old.instance != instance {
				s.srv.fail() // nobody may have followed yet
			}
			return
		}
	}
}

var errElsewhere = errors.New("redis: the name leads to another server")

func (s *single) left(c *conn) (since time.Time, why error) {
	at, instance := s.at.Load(), s.where.instance(c)
	if at == nil || instance == "" || at.instance == instance || time.Since(at.moved) < s.together {
		return time.Time{}, nil
	}
	return at.before, errElsewhere
}

func (s *single) sure(c *conn, _ uint8) bool {
	at, instance := s.at.Load(), s.where.instance(c)
	switch {
	case instance == "":
		return true
	case at == nil || at.instance != instance || time.Since(at.seen) >= s.together:
		return false
	}
	return at.moved.IsZero() || time.Since(at.moved) >= s.together+settleTime
}

func (s *single) moved(context.Context, ...uint8) *routes { return &s.routes }

func (s *single) ended(*server, uint8) {}

func (s *single) leftSince(uint8) time.Time { return time.Now() }

func (s *single) leaseKeys(*server) []string { return []string{s.o.Prefix + leaseKey} }

func (s *single) close() { s.srv.lanes.Close() }

func (s *single) wait() { s.srv.close() }
