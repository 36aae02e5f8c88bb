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

	at atomic.Pointer[sighting] // nil: it has not been seen
}

// locator knows where the one server is.
type locator interface {
	// look asks for the place of the server. sure says that the answer is that of all; else it is no evidence.
	look(ctx context.Context) (place string, sure bool, err error)

	// place is where a connection leads to; "": that cannot be known.
	place(c *conn) string
}

// sighting is the place at which the server was seen.
type sighting struct {
	place  string
	seen   time.Time // when it was asked for last
	moved  time.Time // when it was asked for first since it is this place; zero: it has always been
	before time.Time // when it was seen last at the place before
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
	s.tend()
	return &s.routes, nil // if it has not been seen the first connection finds out
}

func (s *single) tend() { s.inquiry.after(s.every) }

func (s *single) doubt() { s.inquiry.after(doubtTime) }

// doubtTime is how soon after a look there may be another one, as something has failed.
const doubtTime = 50 * time.Millisecond

func (s *single) ask() { _, _ = s.locate(context.Background()) }

// locate looks where the server is.
func (s *single) locate(ctx context.Context) (place string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	undo, ok := s.life.register(cancel)
	if !ok {
		return "", errClosing
	}
	defer undo()
	begin := time.Now()
	place, sure, err := s.where.look(ctx)
	if err == nil && sure {
		s.saw(place, begin, never)
	}
	return place, err
}

// never is the uptime of a server that is known by its address, and so does not change when it is started again.
const never = time.Duration(math.MaxInt64)

// saw records where the server was at a moment. If it is at another place since it has been started, which
// uptime tells, it has not moved: nobody is left at the old place.
func (s *single) saw(place string, when time.Time, uptime time.Duration) {
	for {
		old := s.at.Load()
		at := &sighting{place: place, seen: when}
		switch {
		case old == nil:
		case old.seen.After(when):
			return
		case old.place == place, uptime < when.Sub(old.seen)+time.Second:
			at.moved, at.before = old.moved, old.before
		default:
			at.moved, at.before = when, old.seen
		}
		if s.at.CompareAndSwap(old, at) {
			if old != nil && old.place != place {
				s.srv.fail() // nobody may have followed yet
			}
			return
		}
	}
}

var errElsewhere = errors.New("redis: the name leads to another server")

func (s *single) left(c *conn) (since time.Time, why error) {
	at, place := s.at.Load(), s.where.place(c)
	if at == nil || place == "" || at.place == place || time.Since(at.moved) < s.together {
		return time.Time{}, nil
	}
	return at.before, errElsewhere
}

func (s *single) sure(c *conn, _ uint8) bool {
	at, place := s.at.Load(), s.where.place(c)
	switch {
	case place == "":
		return true
	case at == nil || at.place != place || time.Since(at.seen) >= s.together:
		return false
	}
	return at.moved.IsZero() || time.Since(at.moved) >= s.together+settleTime
}

func (s *single) redirected(redirection) {}

func (s *single) ended(*server, uint8) {}

func (s *single) leftSince(uint8) time.Time { return time.Now() }

func (s *single) leaseKeys(*server) []string { return []string{s.o.Prefix + leaseKey} }

func (s *single) close() { s.srv.lanes.Close() }

func (s *single) wait() { s.srv.close() }
