package redis

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/broker/internal/lane"
)

// server is one Redis: the connections that publish there, the one that subscribes there, and the keeper
// that looks after them.
type server struct {
	dialer
	topology topology  // immutable
	channels *channels // immutable
	addr     string    // immutable

	lanes      *lane.Lanes
	publishers []publisher // by lane
	keeper     *keeper

	in      *subscriber
	session atomic.Pointer[session] // nil: there is none
	health  atomic.Pointer[health]  // of the session; nil: there was none

	unproven atomic.Bool               // it does not say whether it is a master
	failures atomic.Int64              // of connections
	failed   atomic.Pointer[time.Time] // when the last one did
}

// health is why there is no session; nil inside while one is up.
type health struct{ err error }

func newServer(t topology, d dialer, subs *subscriptions, addr string) *server {
	s := &server{
		dialer: d, topology: t, channels: subs.channels, addr: addr,
		publishers: make([]publisher, d.o.Lanes), in: newSubscriber(subs),
	}
	s.keeper = newKeeper(s)
	s.lanes = lane.New(lane.Options{Lanes: d.o.Lanes, Timeout: d.o.PublishTimeout, Check: s.check, Send: s.send})
	return s
}

// close ends publishing, and waits for that.
func (s *server) close() {
	s.lanes.Close()
	s.lanes.Wait()
	for i := range s.publishers {
		s.publishers[i].close()
	}
}

func (s *server) check(m broker.Message) error {
	if len(m.Data) > s.o.MaxMessage || len(m.Subject) > s.o.MaxMessage {
		return fmt.Errorf("%w: more than %d bytes", broker.ErrTooLarge, s.o.MaxMessage)
	}
	return nil
}

// A count is the whole truth when all subscribers of a message are at the server where it was published. What is
// done so that one can know: a server that has been replaced is used on by everybody for as long as it
// does not say so itself, or for a while, so that publishers and subscribers part from it together; a
// publisher's knowledge of which server serves what is never older than that while, or its counts are not exact; and
// after a change it gives the others settleTime to follow.

// settleTime is how long after a change others may still be about to subscribe where they should be: the
// length of a lease. Those that take longer are taken for gone, as those whose lease has run out.
const settleTime = leaseTime

// receipt makes a receipt of what the server at c counted. proven says that it was a master then.
func (s *server) receipt(c *conn, part uint8, count int64, proven bool) broker.Receipt {
	switch {
	case proven && !s.recovering() && s.topology.sure(c, part):
		return broker.Receipt{Nodes: int(count)}
	case count > 0:
		return broker.Receipt{Nodes: int(count), Bound: broker.AtLeast}
	}
	return broker.Receipt{Bound: broker.Unknown}
}

// fail notes that a connection has failed.
func (s *server) fail() {
	now := time.Now()
	s.failed.Store(&now)
	s.failures.Add(1)
}

// recovering reports whether a connection failed a moment ago. Then the server may have been away, and
// others may not have subscribed again yet.
func (s *server) recovering() bool {
	t := s.failed.Load()
	return t != nil && time.Since(*t) < settleTime
}

// log is where the operator reads.
func (s *server) log() *slog.Logger { return s.o.Logger.With("server", s.addr) }

// unavailable makes err a broker.ErrUnavailable, unless it is one.
func unavailable(err error) error {
	if errors.Is(err, broker.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
}

// refusal is the error for a command that the server has refused: for now, or as it must not be.
func refusal(why serverError) error {
	if why.passes() {
		return unavailable(why)
	}
	return fmt.Errorf("%w: %w", broker.ErrRefused, why)
}

// isRefused reports whether err is a refusal of the server, which goes on.
func isRefused(err error) bool {
	_, ok := errors.AsType[serverError](err)
	return ok
}

// passes reports whether an error is of a state of the server in which it serves nobody, which passes.
func (e serverError) passes() bool {
	switch e.code() {
	case "LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "MOVED", "READONLY":
		return true
	}
	return false
}
