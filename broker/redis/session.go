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
	in      *interest
	c       *conn // read by the reader, written by the writer
	control *conn // owned by the keeper, which renews the lease
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
)

// open connects. old is the connection of the session before, which Redis may still count.
func (srv *server) open(ctx context.Context, in *interest, workers *dispatch.Dispatcher, old clientID) (*session, error) {
	c, err := srv.dial(ctx)
	if err != nil {
		return nil, err
	}
	control, err := srv.dialTo(ctx, c.addr)
	if err != nil {
		c.nc.Close()
		return nil, err
	}
	s := &session{srv: srv, in: in, c: c, control: control, workers: workers, failed: make(chan struct{})}
	s.at = dispatch.Session{Pulse: beat.NewPulse(), Stale: func(from beat.Stamp) { s.fail(errStale, from) }, Done: s.failed}
	s.flow = newFlow(s.at.Pulse)
	c.rd.src, c.rd.block = c.nc, s.flush // Run watches the beats; no deadline is needed
	if err := s.claim(old); err != nil {
		s.close()
		return nil, err
	}
	srv.flow.Store(s.flow)
	return s, nil
}

// claim takes the lease, and ends the connection that had it before.
func (s *session) claim(old clientID) error {
	if s.c.client.id == "" {
		s.srv.lease.give(errors.New("the server does not tell a connection's id"))
		return nil
	}
	if _, err := s.control.kill(old, "TYPE", "pubsub"); err != nil {
		return err
	}
	return s.srv.lease.keep(s.control, s.c.client)
}

// serve resubscribes, calls up when that is done, and delivers until the connection fails or ctx is
// done. It returns since when messages may be missing, and why.
func (s *session) serve(ctx context.Context, up func()) (time.Time, error) {
	ready := s.in.begin()
	if err := s.c.nc.SetDeadline(time.Time{}); err != nil {
		s.fail(err, s.at.Pulse.Last())
	}
	var running sync.WaitGroup
	running.Go(s.read)
	running.Go(s.write)
	running.Go(s.keep)

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
	s.close()
	running.Wait()
	if oldest, any := s.workers.Abandon(&s.at); any {
		s.fail(errStale, oldest) // not delivered yet, and perhaps too old when it is reached
	}
	s.mu.Lock()
	err, from := s.err, s.at.Pulse.Time(s.from)
	s.mu.Unlock()
	s.in.end(&outage{from, unavailable(err)})
	return from, err
}

func (s *session) close() {
	s.c.nc.Close()
	s.control.nc.Close()
	s.flow.end()
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

// flush is called before the reader waits.
func (s *session) flush() error {
	if !s.workers.Flush(&s.at) {
		return errors.New("the session is over")
	}
	return nil
}

// read is the reader: it owns the receiving half of the connection.
func (s *session) read() {
	routes := make(map[string]*subject) // the server's view, in the order of what it sends
	for {
		if err := s.readOne(routes); err != nil {
			s.fail(fmt.Errorf("read: %w", err), s.at.Pulse.Last())
			return
		}
	}
}

// readOne reads one message, one confirmation, or one beat.
func (s *session) readOne(routes map[string]*subject) error {
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
		size, err := checkLen(n)
		if err != nil {
			return err
		}
		return s.readBeat(rd.body(size))
	case '*':
	default:
		return errProtocol
	}
	kind, err := rd.bulk()
	if err != nil {
		return err
	}
	switch string(kind) {
	case s.srv.wire.onMessage:
		return s.readMessage(routes)
	case "pong":
		return s.readBeat(rd.bulk())
	case s.srv.wire.onSub:
		return s.readConfirmation(routes, true)
	case s.srv.wire.onUnsub:
		return s.readConfirmation(routes, false)
	}
	return errProtocol
}

// readBeat takes a beat that has come round, or the mark after a command's answer.
func (s *session) readBeat(b []byte, err error) error {
	if err != nil {
		return err
	}
	if s.srv.wire.sharded && string(b) == mark {
		return s.in.answered()
	}
	s.at.Pulse.Back(b)
	s.flow.back()
	return nil
}

// refused takes an error in the place of an answer. Where the slot has moved its new owner is told first,
// so that the subjects go straight there.
func (s *session) refused(why serverError) error {
	if r, ok := why.redirection(s.c.addr); ok && s.srv.moved != nil {
		s.srv.moved(r, s.c.addr)
	}
	return s.in.refuse(why)
}

func (s *session) readMessage(routes map[string]*subject) error {
	channel, err := s.c.rd.bulk()
	if err != nil {
		return err
	}
	name, _ := s.srv.wire.subject(channel)
	sub := routes[string(name)] // name is valid until the next read
	data, err := s.c.rd.bulkCopy()
	if err != nil || sub == nil {
		return err
	}
	if !s.workers.Put(&s.at, broker.Message{Subject: sub.name, Data: data}, &sub.live) {
		return errors.New("the session is over")
	}
	return nil
}

func (s *session) readConfirmation(routes map[string]*subject, on bool) error {
	channel, err := s.c.rd.bulk()
	if err != nil {
		return err
	}
	name, ok := s.srv.wire.subject(channel)
	if !ok {
		return errUnasked
	}
	if !on && s.srv.wire.sharded {
		if lost, err := s.readLoss(routes, name); lost || err != nil {
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
	if len(ended) > 0 && !s.workers.After(&s.at, sub.name, func() { s.in.t.pass(ended) }) {
		return errors.New("the session is over")
	}
	_, err = s.c.rd.integer()
	return err
}

// readLoss reads that the server has ended a subscription by itself, as its slot has left; if it is the
// confirmation that is due it reports false. What was read before is handed on first, so that nothing
// of the slot's new owner overtakes it.
func (s *session) readLoss(routes map[string]*subject, name []byte) (bool, error) {
	if err := s.flush(); err != nil {
		return false, err
	}
	from := s.at.Pulse.Time(s.at.Pulse.Last()).Add(-handover)
	if t := s.srv.left(s.srv.wire.partition(string(name))); t.Before(from) {
		from = t
	}
	if s.loss == nil || from.Before(s.loss.from) || time.Since(s.lossAt) > watchTime {
		s.loss = &outage{from, errMoved}
		s.lossAt = time.Now()
	}
	if s.in.asked(name) {
		return false, nil
	}
	s.srv.lost(s.srv.wire.partition(string(name)))
	s.in.lost(name, s.loss)
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
			out = s.appendBeat(out)
		case <-s.flow.want:
			out = s.appendBeat(out)
		case <-s.in.poke:
		}
		for more := true; more; {
			for more && len(out) < bufferSize {
				out, more = s.in.appendCommands(out)
			}
			if err := s.c.write(out, nil); err != nil {
				s.fail(fmt.Errorf("write: %w", err), s.at.Pulse.Last())
				return
			}
			out = out[:0]
			select {
			case <-beats.C: // also while there is much to say
				out, more = s.appendBeat(out), true
			case <-s.flow.want:
				out, more = s.appendBeat(out), true
			default:
			}
		}
	}
}

func (s *session) appendBeat(dst []byte) []byte {
	var number [20]byte
	return appendCommand(dst, "PING", string(s.at.Pulse.AppendBeat(number[:0])))
}

// handover is how long a slot may have had a new owner before the old one says so, so that messages may
// have gone to the new one.
const handover = 2 * time.Second

// keep is the keeper: it renews the lease while beats come back, drops nodes whose lease is over, and
// ends the session when the server is no longer the master.
func (s *session) keep() {
	if s.c.client.id == "" && s.srv.find == nil {
		return
	}
	tick := time.NewTicker(reapTime / 2)
	defer tick.Stop()
	here := time.Now() // when the server was last known to be the master
	for {
		select {
		case <-s.failed:
			return
		case <-tick.C:
		}
		if s.at.Pulse.Silent() {
			continue // Run is about to end the session
		}
		if err := s.srv.here(s.c); err != nil {
			s.failFrom(err, here)
			return
		}
		if at := s.srv.spot.get(); at.addr == s.c.addr {
			here = at.seen
		}
		if s.c.client.id == "" {
			continue
		}
		if err := s.srv.lease.keep(s.control, s.c.client); err != nil {
			s.fail(fmt.Errorf("renew the lease: %w", err), s.at.Pulse.Last())
			return
		}
	}
}
