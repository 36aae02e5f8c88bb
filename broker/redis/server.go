package redis

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/internal/lane"
)

// server is one Redis: how to connect to it, publish there, and keep a lease.
type server struct {
	life *life
	opts *goredis.Options // immutable
	o    Options          // immutable; with defaults
	wire *wire            // immutable
	find finder           // immutable; nil: opts.Addr
	role bool             // immutable; it must be a master

	// moved is told of every redirection, and by whom. Immutable; nil: what is redirected has failed.
	moved func(r redirection, from string)

	// certain reports whether counts of a partition are the whole truth. Immutable; nil: they are.
	certain func(part uint8) bool

	// proof appends a command, to be sent behind messages, that only the owner of the slot of a subject
	// executes. A replica counts its own subscribers and does not say that it is one; such a count is of
	// nobody, most often, just after a master has become a replica. Immutable; nil: there is none.
	proof func(dst []byte, subject string) []byte

	// doubt is told that counts of a partition are not what they were. Immutable; nil if certain is.
	doubt func(part uint8)

	// lost is told that the server has ended a subscription of a partition, as it is not the owner any more.
	// Immutable; nil: it cannot be.
	lost func(part uint8)

	// left is since when messages of a partition may have been published at another server, when this one
	// has lost it. Immutable; nil: it cannot.
	left func(part uint8) time.Time

	spot spot // if there are Sentinels
	runs runs

	lanes      *lane.Lanes
	publishers []publisher               // by lane
	failures   atomic.Int64              // of connections
	failed     atomic.Pointer[time.Time] // when the last one did
	lease      lease
	flow       atomic.Pointer[flow] // of the session that was opened last; nil: none was
}

func newServer(l *life, opts *goredis.Options, o Options, w *wire) *server {
	keys := []string{o.Prefix + leaseKey}
	s := &server{
		life:       l,
		opts:       opts,
		o:          o,
		wire:       w,
		publishers: make([]publisher, o.Lanes),
		lease:      lease{log: o.Logger, base: time.Now(), keys: func() []string { return keys }},
	}
	s.lanes = lane.New(lane.Options{Lanes: o.Lanes, Timeout: o.PublishTimeout, Check: s.check, Send: s.send})
	return s
}

// ping asks the server for an answer.
func (s *server) ping(ctx context.Context) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	v, err := c.do("PING")
	if err != nil {
		return err
	}
	if refused, ok := v.(serverError); ok {
		return refused
	}
	return nil
}

// dial connects to where the server is now.
func (s *server) dial(ctx context.Context) (*conn, error) {
	addr := s.opts.Addr
	if s.find != nil {
		var err error
		if addr, err = s.where(ctx); err != nil {
			return nil, err
		}
	}
	return s.dialTo(ctx, addr)
}

// finder asks Sentinels where the master is. sure says that most of them have answered.
type finder func(context.Context) (addr string, sure bool, err error)

// where asks for the server's address.
func (s *server) where(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	undo, ok := s.life.register(cancel)
	if !ok {
		return "", errClosing
	}
	defer undo()
	begin := time.Now()
	addr, sure, err := s.find(ctx)
	if err == nil && sure && s.spot.set(sighting{addr: addr, seen: begin}) {
		s.fail() // nobody may have followed yet
	}
	return addr, err
}

// dialTo connects, authenticates, and asks for the connection's name.
func (s *server) dialTo(ctx context.Context, addr string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	undo, ok := s.life.register(cancel)
	if !ok {
		return nil, errClosing
	}
	before := s.runs.before(addr)
	nc, err := s.opts.Dialer(ctx, s.opts.Network, addr)
	undo()
	if err != nil {
		return nil, fmt.Errorf("dial: %w", advised(err, s.opts.TLSConfig != nil))
	}
	c := &conn{nc: nc, addr: addr, timeout: s.o.DialTimeout}
	c.rd = newReader(timedReader{c})
	if undo, ok = s.life.register(func() { nc.Close() }); !ok {
		nc.Close()
		return nil, errClosing
	}
	c.nc = registered{nc, undo}
	// What ends ctx before the greeting is over ends the connection.
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	err = c.greet(ctx, s.opts, s.role)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.nc.Close()
		return nil, advised(err, s.opts.TLSConfig != nil)
	}
	if s.runs.began(addr, c.client.id, before) {
		s.fail()
	}
	c.timeout = s.o.PublishTimeout
	c.used = time.Now()
	return c, nil
}

// here fails if the server is no longer where c is connected to, and everybody has had the time to hear of it.
func (s *server) here(c *conn) error {
	if s.find == nil {
		return nil
	}
	if s.spot.due() {
		_, _ = s.where(context.Background()) // nobody to ask is no reason
	}
	if at := s.spot.get(); at.addr != "" && at.addr != c.addr && time.Since(at.moved) >= partTime {
		return fmt.Errorf("redis: the master is elsewhere, at %s", at.addr)
	}
	return nil
}

// close ends publishing, and waits for that.
func (s *server) close() {
	s.lanes.Close()
	s.lanes.Wait()
	for i := range s.publishers {
		if p := &s.publishers[i]; p.c != nil {
			s.discard(p)
		}
	}
}

func (s *server) check(m broker.Message) error {
	if len(m.Data) > s.o.MaxMessage || len(m.Subject) > s.o.MaxMessage {
		return fmt.Errorf("%w: more than %d bytes", broker.ErrTooLarge, s.o.MaxMessage)
	}
	return nil
}

var errClosing = errors.New("the broker is closed")

// unavailable makes err a broker.ErrUnavailable, unless it is one.
func unavailable(err error) error {
	if errors.Is(err, broker.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
}
