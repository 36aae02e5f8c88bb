package redis

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"

	"tether/broker/internal/lane"
)

// redirection is what a Cluster's server answers instead of doing what it was told. It has done nothing.
type redirection struct {
	slot int
	addr string
	ask  bool // this once, and after ASKING
}

// redirection parses "MOVED 3999 127.0.0.1:6381". An address without a host is on that of from.
func (e serverError) redirection(from string) (redirection, bool) {
	words := strings.Fields(string(e))
	if len(words) != 3 || words[0] != "MOVED" && words[0] != "ASK" {
		return redirection{}, false
	}
	slot, err := strconv.Atoi(words[1])
	if err != nil || slot < 0 || slot >= slots {
		return redirection{}, false
	}
	addr, ok := completeAddr(words[2], from)
	return redirection{slot, addr, words[0] == "ASK"}, ok
}

// completeAddr gives an address that lacks its host, or has "?" for it, the host of from.
func completeAddr(addr, from string) (string, bool) {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 {
		return "", false
	}
	host, port := strings.Trim(addr[:i], "[]"), addr[i+1:]
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", false
	}
	if host == "" || host == "?" {
		var err error
		if host, _, err = net.SplitHostPort(from); err != nil {
			return "", false
		}
	}
	return net.JoinHostPort(host, port), true
}

// maxHops is how often a message follows redirections.
const maxHops = 4

var errHops = errors.New("redis: the Cluster's servers do not agree on who has the slot")

// side is the connection to a server that messages were redirected to, or why there is none.
type side struct {
	c   *conn
	err error
}

// follow sends what was redirected to where it belongs, one after the other. It was not executed where it was
// sent first, so nothing is sent twice.
func (s *server) follow(p *publisher, b *lane.Batch) {
	sides := make(map[string]*side)
	defer func() {
		for _, other := range sides {
			if other.c != nil {
				other.c.nc.Close()
			}
		}
	}()
	for k, i := range p.away {
		if n, err := s.forward(sides, b, i, p.to[k]); err != nil {
			b.Fail(i, err)
		} else {
			b.Took(i, s.receipt(nil, 0, n, false))
		}
	}
	p.away, p.to = p.away[:0], p.to[:0]
}

// forward sends a message where r says, or where it is redirected to there.
func (s *server) forward(sides map[string]*side, b *lane.Batch, i int, r redirection) (nodes int64, err error) {
	for range maxHops {
		s.topology.redirected(r)
		other := sides[r.addr]
		if other == nil {
			other = &side{}
			other.c, other.err = s.dialTo(context.Background(), r.addr, true)
			sides[r.addr] = other
		}
		if other.err != nil {
			return 0, unavailable(other.err)
		}
		n, err := other.c.publishOne(b, i, s.channels, r.ask)
		var refused serverError
		switch {
		case err == nil:
			return n, nil
		case !errors.As(err, &refused):
			other.err = err // the connection is broken
			return 0, unavailable(err)
		}
		again, ok := refused.redirection(r.addr)
		if !ok {
			return 0, refusal(refused)
		}
		r = again
	}
	return 0, unavailable(errHops)
}

// publishOne sends one message, and returns how many took it.
func (c *conn) publishOne(b *lane.Batch, i int, w *channels, ask bool) (nodes int64, err error) {
	c.out = c.out[:0]
	if ask {
		c.out = appendCommand(c.out, "ASKING")
	}
	if err := c.send(b, i, w); err != nil {
		return 0, err
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	if ask {
		if err := c.rd.skip(0); err != nil {
			return 0, err
		}
	}
	return c.rd.integer()
}
