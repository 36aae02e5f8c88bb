package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tether/broker"
	"tether/broker/internal/beat"
	"tether/broker/internal/dispatch"
)

// session is the life of one subscribed connection.
type session struct {
	srv     *server
	in      *subscriber
	c       *conn // read by the reader, written by the writer
	workers *dispatch.Dispatcher
	at      dispatch.Session
	flow    *flow // of what this node publishes

	loss   *outage   // owned by the reader; of subjects whose slots left lately
	lossAt time.Time // owned by the reader; when loss was made

	mu     sync.Mutex
	err    error         // guarded by mu; why the session failed, once it has
	failed chan struct{} // closed with err
	from   beat.Stamp    // guarded by mu; the last good moment, valid when err is set
}

var (
	errSilent = errors.New("redis: no beat came back for two seconds")
	errMoved  = errors.New("redis: the slot has moved to another server")
	errStale  = errors.New("redis: messages were too old when they were reached")
	errOver   = errors.New("redis: the session is over")
)

// openSession connects. old is the connection of the session before, which Redis may still count.
func openSession(ctx context.Context, srv *server, workers *dispatch.Dispatcher, old clientID) (*session, error) {
	c, err := srv.topology.dial(ctx, srv)
	if err != nil {
		return nil, err
	}
	if _, err := c.kill(old, "TYPE", "pubsub"); err != nil && !isRefused(err) {
		c.nc.Close()
		return nil, err
	}
	s := &session{srv: srv, in: srv.in, c: c, workers: workers, failed: make(chan struct{})}
	s.at = dispatch.Session{Pulse: beat.NewPulse(), Stale: func(from beat.Stamp) { s.fail(errStale, from) }, Done: s.failed}
	s.flow = newFlow(s.at.Pulse)
	c.rd.src = s // serve watches the beats; no deadline is needed
	srv.session.Store(s)
	srv.keeper.lend(ctx)                  // a node that freezes before it has a lease would stay counted
	s.at.Pulse.Returned(s.at.Pulse.Now()) // nothing is subscribed yet, so nothing is missed while the lease takes its time
	return s, nil
}

// serve resubscribes, calls up when that is done, and delivers until the connection fails or ctx is done. It
// returns why.
func (s *session) serve(ctx context.Context, up func()) error {
	ready := s.in.begin(s.at.Pulse)
	if err := s.c.nc.SetDeadline(time.Time{}); err != nil {
		s.fail(err, s.at.Pulse.Last())
	}
	var running sync.WaitGroup
	running.Go(s.read)
	running.Go(s.write)

	watch := time.NewTicker(beat.Interval / 4)
	defer watch.Stop()
	for open := true; open; {
		select {
		case <-s.failed:
			open = false
		case <-ctx.Done():
			s.fail(ctx.Err(), s.at.Pulse.Last())
			open = false
		case <-ready:
			ready = nil
			up()
		case <-watch.C:
			if s.at.Pulse.Silent() {
				s.fail(errSilent, s.at.Pulse.Last())
			}
		}
	}
	s.c.nc.Close()
	s.flow.end()
	running.Wait()
	if oldest, any := s.workers.Abandon(&s.at); any {
		s.fail(errStale, oldest) // not delivered yet, and perhaps too old when it is reached
	}
	s.mu.Lock()
	err, from := s.err, s.at.Pulse.Time(s.from)
	s.mu.Unlock()
	s.in.end(&outage{from, unavailable(err)})
	return err
}

// fail ends the session. Of several reasons the first is kept, of several moments the earliest.
func (s *session) fail(err error, from beat.Stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err, s.from = err, from
		close(s.failed)
	}
	s.from = min(s.from, from)
}

// failFrom is fail, with a last good moment that is t, or handover before the last beat if that is earlier.
func (s *session) failFrom(err error, t time.Time) {
	s.fail(err, min(s.at.Pulse.Now()-beat.Stamp(time.Since(t)), s.at.Pulse.Last()-beat.Stamp(handover)))
}

// handover is how long a slot, or a name, may have led elsewhere before that is known, so that messages may
// have gone there.
const handover = 2 * time.Second

// Read reads for the reader, and hands over what it has read before it waits.
func (s *session) Read(p []byte) (int, error) {
	if !s.workers.Flush(&s.at) {
		return 0, errOver
	}
	return s.c.nc.Read(p)
}

// read is the reader: it owns the receiving half of the connection.
func (s *session) read() {
	routes := make(map[string]*subscription) // what the server has confirmed, in the order of what it sends
	for {
		if err := s.readOne(routes); err != nil {
			s.fail(fmt.Errorf("read: %w", err), s.at.Pulse.Last())
			return
		}
	}
}

// readOne reads one message, one confirmation, or one beat.
func (s *session) readOne(routes map[string]*subscription) error {
	rd := s.c.rd
	line, err := rd.line()
	if err != nil {
		return err
	}
	switch line[0] {
	case '-':
		return s.refused(serverError(line[1:]))
	case '$': // a beat that comes back while nothing is subscribed
		n, err := number(line[1:])
		if err != nil {
			return err
		}
		return s.readBeat(rd.body(n))
	case '*':
	default:
		return errProtocol
	}
	kind, err := rd.bulk()
	if err != nil {
		return err
	}
	w := s.in.t.channels
	switch string(kind) {
	case w.onMessage:
		return s.readMessage(routes)
	case "pong":
		return s.readBeat(rd.bulk())
	case w.onSub:
		return s.readConfirmation(routes, true)
	case w.onUnsub:
		return s.readConfirmation(routes, false)
	}
	return errProtocol
}

// readBeat takes the answer to a beat.
func (s *session) readBeat(_ []byte, err error) error {
	if err != nil {
		return err
	}
	at, err := s.in.back()
	if err != nil {
		return err
	}
	s.at.Pulse.Returned(at)
	s.flow.back()
	return nil
}

// refused takes an error in place of an answer. Where the slot has moved that is told first, so that the
// subjects go to its new owner.
func (s *session) refused(why serverError) error {
	if part, moved := why.moved(); moved {
		s.srv.topology.ended(s.srv, part)
	}
	beat, err := s.in.refuse(why)
	if beat {
		return s.readBeat(nil, nil)
	}
	return err
}

func (s *session) readMessage(routes map[string]*subscription) error {
	channel, err := s.c.rd.bulk()
	if err != nil {
		return err
	}
	name, _ := s.in.t.channels.subject(channel)
	sub := routes[string(name)] // name is valid until the next read
	data, err := s.c.rd.bulkCopy()
	if err != nil || sub == nil {
		return err
	}
	m := broker.Message{Subject: sub.name, Data: data}
	if s.in.t.channels.log != nil {
		if place, rest, ok := cutPlace(data); ok { // else it is of one that keeps no log
			m.Data, m.Place = rest, place
		}
	}
	if !s.workers.Put(&s.at, m, &sub.live) {
		return errOver
	}
	return nil
}

func (s *session) readConfirmation(routes map[string]*subscription, on bool) error {
	channel, err := s.c.rd.bulk()
	if err != nil {
		return err
	}
	name, ok := s.in.t.channels.subject(channel)
	if !ok {
		return errUnasked
	}
	if !on && s.in.t.channels.sharded {
		if ended, err := s.readEnd(routes, name); ended || err != nil {
			return err
		}
	}
	sub, ended, err := s.in.confirm(on, name)
	if err != nil {
		return err
	}
	if on {
		routes[sub.name] = sub
	} else {
		delete(routes, sub.name)
	}
	if ended && !s.workers.After(&s.at, sub.name, func() { s.in.t.pass(sub) }) {
		return errOver
	}
	_, err = s.c.rd.integer()
	return err
}

// readEnd reads that the server has ended a subscription by itself, as its slot has left; if it is the
// confirmation that is due it reports false. What was read before is handed on first, so that nothing
// of the slot's new owner overtakes it.
func (s *session) readEnd(routes map[string]*subscription, name []byte) (bool, error) {
	if !s.workers.Flush(&s.at) {
		return false, errOver
	}
	part := s.in.t.channels.partition(string(name))
	from := s.at.Pulse.Time(s.at.Pulse.Last()).Add(-handover)
	if t := s.srv.topology.leftSince(part); t.Before(from) {
		from = t
	}
	if s.loss == nil || from.Before(s.loss.from) || time.Since(s.lossAt) > watchTime {
		s.loss = &outage{from, unavailable(errMoved)}
		s.lossAt = time.Now()
	}
	if s.in.asked(name) {
		return false, nil
	}
	s.srv.topology.ended(s.srv, part)
	s.in.ended(name, s.loss)
	delete(routes, string(name))
	_, err := s.c.rd.integer()
	return true, err
}

// write is the writer: it owns the sending half of the connection.
func (s *session) write() {
	beats := time.NewTicker(beat.Interval)
	defer beats.Stop()
	var out []byte
	for {
		select {
		case <-s.failed:
			return
		case <-beats.C:
			out = s.in.appendBeat(out)
		case <-s.flow.want:
			out = s.in.appendBeat(out)
		case <-s.in.poke:
		}
		for more := true; more; {
			out, more = s.in.appendCommands(out)
			if err := s.c.write(out, nil); err != nil {
				s.fail(fmt.Errorf("write: %w", err), s.at.Pulse.Last())
				return
			}
			out = out[:0]
			select {
			case <-beats.C: // also while there is much to say
				out, more = s.in.appendBeat(out), true
			case <-s.flow.want:
				out, more = s.in.appendBeat(out), true
			default:
			}
		}
	}
}
