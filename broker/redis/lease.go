package redis

import (
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// leaseKey is the sorted set of the nodes that run: members are "id addr laddr" of their subscribed
// connections, scores the server's time in milliseconds at which they expire. A prefix comes before it,
// and in a Cluster a hash tag after it.
const leaseKey = "tether:nodes"

const (
	leaseTime = 4 * time.Second
	reapTime  = time.Second             // between two looks for expired leases
	waryTime  = 2500 * time.Millisecond // in which every node that is alive renews, also if its view is old
)

// leaseScript renews the lease of ARGV[1], unless that is empty, and returns the server's time and
// up to a hundred nodes whose lease is over. The key itself goes an hour after the last renewal.
const leaseScript = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 3600000)
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)`

// lease keeps receipts honest: a node that froze or was cut off stays subscribed as far as Redis
// knows, until somebody whose lease is good makes Redis drop its connection.
type lease struct {
	log *slog.Logger

	// keys are those of the sorted sets, all with the same nodes. A Cluster's server has two, in its first
	// and its last slot, so that one is left when slots leave at either end.
	keys func() []string

	sharded bool // immutable; the key may move to another server

	// wary is until when nobody is dropped, in ns since base: the server has just refused renewals, or the
	// keys have moved, and nodes that are alive look expired.
	wary atomic.Int64

	base time.Time
	last atomic.Int64 // when this process last reaped, ns since base; 0: never
	off  atomic.Bool  // the server cannot
	once sync.Once
}

// reapIfDue drops expired nodes unless this broker did within the last second.
func (l *lease) reapIfDue(c *conn) error {
	last, now := l.last.Load(), int64(time.Since(l.base))
	if l.off.Load() || last != 0 && now-last < int64(reapTime) || !l.last.CompareAndSwap(last, now) {
		return nil
	}
	return l.keep(c, clientID{})
}

// keep renews the lease of node, if it has a name, and drops the nodes whose lease is over.
func (l *lease) keep(c *conn, node clientID) error {
	if l.off.Load() {
		return nil
	}
	keys := l.keys()
	expired := make([][]any, len(keys))
	for i, key := range keys {
		v, err := c.do("EVAL", leaseScript, "1", key, node.member(), strconv.FormatInt(leaseTime.Milliseconds(), 10))
		if err != nil {
			return err
		}
		switch v := v.(type) {
		case serverError:
			return l.refused(v)
		case []any:
			expired[i] = v
		default:
			return errProtocol
		}
	}
	now := int64(time.Since(l.base))
	l.last.Store(now)
	if now < l.wary.Load() {
		return nil
	}
	for i := range keys {
		for _, v := range expired[i] {
			member, _ := v.(string)
			if err := l.drop(c, keys, expired, i, member); err != nil {
				return err
			}
		}
	}
	return nil
}

// member is a connection in the sorted set.
func (c clientID) member() string {
	if c.id == "" {
		return ""
	}
	return strings.TrimSpace(c.id + " " + c.addr + " " + c.laddr)
}

// drop kills the connection of a node whose lease in one key is over, and forgets the lease.
func (l *lease) drop(c *conn, keys []string, expired [][]any, in int, member string) error {
	alive, err := renewedElsewhere(c, keys, expired, in, member)
	if err != nil {
		return err
	}
	id, addr, ok := strings.Cut(member, " ")
	addr, laddr, _ := strings.Cut(addr, " ")
	if ok && !alive {
		v, err := c.kill(clientID{id, addr, laddr}, "TYPE", "pubsub")
		if err != nil {
			return err
		}
		if refused, bad := v.(serverError); bad {
			return l.refused(refused)
		}
		if v == int64(1) {
			l.log.Warn("redis: dropped a node that had stopped renewing its lease", "client", id, "addr", addr)
		}
	}
	_, err = c.do("ZREM", keys[in], member)
	return err
}

// renewedElsewhere reports whether the lease is good in another key: this one has left the server, and
// come back with what was true before.
func renewedElsewhere(c *conn, keys []string, expired [][]any, in int, member string) (bool, error) {
	for i, key := range keys {
		if i == in || slices.Contains(expired[i], any(member)) {
			continue
		}
		v, err := c.do("ZSCORE", key, member)
		if err != nil {
			return false, err
		}
		if _, ok := v.(string); ok {
			return true, nil
		}
	}
	return false, nil
}

// refused decides what an error of the server means.
func (l *lease) refused(err serverError) error {
	switch err.code() {
	case "READONLY":
		return err // a replica, by now: the connection must go
	case "MOVED", "ASK":
		if !l.sharded {
			return err // a part of a Cluster
		}
	case "ERR", "NOPERM":
		l.give(err)
	}
	l.beWary()
	return nil // a state of the server that passes: LOADING, BUSY, OOM, CLUSTERDOWN …
}

// beWary puts off dropping nodes until those that are alive have renewed their leases.
func (l *lease) beWary() { l.wary.Store(int64(time.Since(l.base) + waryTime)) }

// give gives leases up, and says so once.
func (l *lease) give(why error) {
	l.off.Store(true)
	l.once.Do(func() {
		l.log.Warn("redis: a node that freezes or is cut off stays counted in receipts until Redis itself notices; needed are EVAL, CLIENT INFO and CLIENT KILL (Redis 6.2)",
			"cause", why)
	})
}
