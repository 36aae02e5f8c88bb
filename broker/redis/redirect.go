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

// follow sends what was redirected to where it belongs, in order. It was not executed where it was sent
// first, so nothing is sent twice.
func (s *server) follow(p *publisher, b *lane.Batch) {
	defer p.closeSides()
	for range maxHops {
		if len(p.away) == 0 {
			return
		}
		away, to := p.away, p.to
		p.away, p.to = nil, nil
		for len(away) > 0 {
			n := 1
			for n < len(away) && to[n].addr == to[0].addr && to[n].ask == to[0].ask {
				n++
			}
			s.topology.redirected(to[0])
			if err := s.forward(p, b, away[:n], to[0]); err != nil {
				for _, i := range away[:n] {
					if !b.Resolved(i) {
						b.Fail(i, unavailable(err))
					}
				}
			}
			away, to = away[n:], to[n:]
		}
	}
	for _, i := range p.away {
		b.Fail(i, unavailable(errHops))
	}
	p.away, p.to = nil, nil
}

// forward sends messages to one other server and reads the answers.
func (s *server) forward(p *publisher, b *lane.Batch, list []int, r redirection) (err error) {
	c := p.sides[r.addr]
	if c == nil {
		if c, err = s.dialTo(context.Background(), r.addr, true); err != nil {
			return err
		}
		if p.sides == nil {
			p.sides = make(map[string]*conn)
		}
		p.sides[r.addr] = c
	}
	defer func() {
		if err != nil {
			c.nc.Close()
			delete(p.sides, r.addr)
		}
	}()
	c.out = c.out[:0]
	for _, i := range list {
		if r.ask {
			c.out = appendCommand(c.out, "ASKING")
		}
		if err := c.send(b, i, s.channels); err != nil {
			return err
		}
	}
	if err := c.flush(); err != nil {
		return err
	}
	for _, i := range list {
		if r.ask {
			if _, err := c.rd.reply(); err != nil {
				return err
			}
		}
		n, err := c.rd.integer()
		var refused serverError
		switch {
		case err == nil:
			b.Took(i, s.receipt(c, 0, n, false))
		case errors.As(err, &refused):
			if again, ok := refused.redirection(c.addr); ok {
				p.away, p.to = append(p.away, i), append(p.to, again)
				continue
			}
			b.Fail(i, refusal(refused))
		default:
			return err
		}
	}
	return nil
}

// closeSides closes the connections to servers that messages were redirected to.
func (p *publisher) closeSides() {
	for addr, c := range p.sides {
		c.nc.Close()
		delete(p.sides, addr)
	}
}
