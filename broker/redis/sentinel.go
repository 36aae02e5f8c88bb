package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// askTime is how long a Sentinel may take to answer; others are asked at the same time.
const askTime = 300 * time.Millisecond

// graceTime is how long the others are waited for when most Sentinels have answered.
const graceTime = 30 * time.Millisecond

const (
	sentinelEvery    = lookTime * 9 / 10 // so that no look of a keeper comes just too early
	sentinelTogether = 2 * lookTime
)

// sentinels is the topology of the master that Sentinels name.
type sentinels struct {
	*single
	addrs []string // immutable
	name  string   // immutable; of the master
	auth  bool     // immutable; the Sentinels are given the user and password, too

	last *atomic.Pointer[string] // the last answer
}

func newSentinels(d dialer, subs *subscriptions, t target) topology {
	s := sentinels{
		single: newSingle(d, sentinelEvery, sentinelTogether),
		addrs:  t.sentinels, name: t.master, auth: t.sentinelAuth, last: new(atomic.Pointer[string]),
	}
	s.where = s
	s.serve(newServer(s, d, subs, "the master "+t.master), subs)
	return s
}

func (s sentinels) dial(ctx context.Context, _ *server) (*conn, error) {
	addr, err := s.locate(ctx)
	if err != nil {
		return nil, err
	}
	return s.dialTo(ctx, addr, false)
}

func (s sentinels) instance(c *conn) string { return c.addr }

// refused is the error for an answer to SENTINEL MASTER.
func (s sentinels) refused(why serverError) error {
	switch {
	case why.code() == "NOAUTH":
		return refusedAuth(why, "the Sentinel", missingSentinel)
	case strings.Contains(string(why), "No such master"):
		return fmt.Errorf("%w: it watches none that it calls %q; SENTINEL MASTERS lists those that it does", why, s.name)
	case strings.Contains(string(why), "unknown command"):
		return fmt.Errorf("%w: it is a server, and no Sentinel: the scheme for that is redis, without the master's name; Sentinels are at port 26379 most often", why)
	}
	return why
}

// answer is what one Sentinel says.
type answer struct {
	addr  string
	epoch int64
	err   error
}

// look asks all Sentinels and believes the one that knows of the latest failover. When none answers,
// the master is where it was: that it still is a master is asked at every connect. sure says that most of
// them have answered.
func (s sentinels) look(ctx context.Context) (addr string, sure bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answers := make(chan answer, len(s.addrs))
	for _, addr := range s.addrs { // they end with ctx, and are waited for below
		go func() { answers <- s.askOne(ctx, addr) }()
	}
	best, good := answer{err: errors.New("redis: no Sentinel is known")}, 0
	for range s.addrs {
		a := <-answers
		if a.err == nil && (best.err != nil || a.epoch > best.epoch) || a.err != nil && best.err != nil {
			best = a
		}
		if a.err == nil {
			good++
		}
		if good == len(s.addrs)/2+1 {
			defer time.AfterFunc(graceTime, cancel).Stop()
		}
	}
	if best.err == nil {
		s.last.Store(&best.addr)
		return best.addr, good > len(s.addrs)/2, nil
	}
	if last := s.last.Load(); last != nil {
		return *last, false, nil
	}
	return "", false, best.err
}

// askOne asks one Sentinel for the address of the master, and the epoch of its last failover.
func (s sentinels) askOne(ctx context.Context, addr string) (a answer) {
	fail := func(err error) answer {
		return answer{err: fmt.Errorf("redis: Sentinel %s: %w", addr, advised(err, s.secure()))}
	}
	nc, err := s.opts.Dialer(ctx, "tcp", addr)
	if err != nil {
		return fail(err)
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	c := &conn{nc: nc, addr: addr, timeout: askTime}
	c.rd = newReader(timedReader{c})
	if s.auth {
		user, password, err := credentials(ctx, s.opts)
		if err == nil {
			err = c.authenticate(user, password, "the Sentinel", missingSentinel)
		}
		if err != nil {
			return fail(err)
		}
	}
	v, err := c.ask("SENTINEL", "MASTER", s.name)
	if refused, ok := errors.AsType[serverError](err); ok {
		err = s.refused(refused)
	}
	if err != nil {
		return fail(err)
	}
	fields, _ := v.([]any)
	for i := 0; i+1 < len(fields); i += 2 {
		if text, _ := fields[i+1].(string); fields[i] == "config-epoch" {
			a.epoch, _ = strconv.ParseInt(text, 10, 64)
		}
	}
	if v, err = c.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.name); err != nil {
		return fail(err)
	}
	pair, _ := v.([]any)
	if len(pair) != 2 {
		return fail(errors.New("no master of this name"))
	}
	host, _ := pair[0].(string)
	port, _ := pair[1].(string)
	a.addr = net.JoinHostPort(host, port)
	return a
}
