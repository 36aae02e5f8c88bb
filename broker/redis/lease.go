package redis

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// leaseKey is the sorted set of the nodes that run: members are [lease.member], scores the server's time in
// milliseconds at which they expire. A prefix comes before it, and in a Cluster a hash tag after it.
const leaseKey = "tether:nodes"

const (
	leaseTime = 4 * time.Second
	deadTime  = 4 * time.Second // in whole seconds, that a connection of a node has been idle; they are used twice a second
)

// lease keeps receipts honest: a node that froze or was cut off stays subscribed as far as Redis knows, until
// a keeper makes Redis drop its connection. That the lease is over only says where to look, as Redis may have
// refused to renew it. What is evidence is what Redis says of the node's connections: one of a node that lives
// has never been idle for long.
type lease struct {
	s      *server
	reason string // why it cannot be kept; "": it can
}

// member names the session of this node, and the connection of its keeper; "" if there is none, or Redis does
// not say its name.
func (l *lease) member(keeper clientID) string {
	session := l.s.session.Load()
	if session == nil || session.c.client.id == "" {
		return ""
	}
	c := session.c.client
	return c.id + " " + c.addr + " " + c.laddr + " " + keeper.id
}

// keep renews the lease of this node, if there is a session, and drops nodes that are dead.
func (l *lease) keep(c *conn) error {
	refused, err := l.tryKeep(c)
	if err != nil {
		return err
	}
	reason := ""
	switch {
	case refused.passes():
		return nil
	case refused != "":
		reason = refused.code()
	case c.client.id == "":
		refused, reason = "the server does not tell a connection's name", "CLIENT"
	}
	if l.reason != reason {
		if l.reason = reason; reason == "" {
			l.s.log().Info("redis: leases of nodes are kept again")
		} else {
			l.s.log().Warn("redis: a node that freezes or is cut off may stay counted in receipts until Redis itself notices; "+
				"needed are TIME, ZADD, PEXPIRE, ZRANGEBYSCORE, ZREM, CLIENT INFO, CLIENT LIST and CLIENT KILL (Redis 6.2), and that Redis takes writes", "cause", refused)
		}
	}
	return nil
}

// tryKeep returns what the server has refused.
func (l *lease) tryKeep(c *conn) (refused serverError, err error) {
	keys := l.s.topology.leaseKeys(l.s)
	v, err := c.do("TIME")
	if err != nil || len(keys) == 0 {
		return "", err
	}
	if refused, ok := v.(serverError); ok {
		return refused, nil
	}
	clock, _ := v.([]any)
	if len(clock) != 2 {
		return "", errProtocol
	}
	seconds, _ := clock[0].(string)
	micros, _ := clock[1].(string)
	now, err := strconv.ParseInt(seconds+fmt.Sprintf("%06s", micros), 10, 64)
	if err != nil {
		return "", errProtocol
	}
	for _, key := range keys {
		why, err := l.keepAt(c, key, now/1000)
		if err != nil {
			return "", err
		}
		if why != "" {
			refused = why
		}
	}
	return refused, nil
}

// keepAt does it for one key. The key itself goes an hour after the last renewal.
func (l *lease) keepAt(c *conn, key string, now int64) (refused serverError, err error) {
	c.out = c.out[:0]
	member, renewals := l.member(c.client), 0
	if member != "" {
		c.out = appendCommand(c.out, "ZADD", key, strconv.FormatInt(now+leaseTime.Milliseconds(), 10), member)
		c.out = appendCommand(c.out, "PEXPIRE", key, "3600000")
		renewals = 2
	}
	c.out = appendCommand(c.out, "ZRANGEBYSCORE", key, "-inf", strconv.FormatInt(now, 10), "LIMIT", "0", "100")
	if err := c.flush(); err != nil {
		return "", err
	}
	for range renewals {
		v, err := c.rd.reply()
		if err != nil {
			return "", err
		}
		if why, ok := v.(serverError); ok && refused == "" {
			refused = why
		}
	}
	v, err := c.rd.reply()
	if err != nil {
		return "", err
	}
	switch expired := v.(type) {
	case serverError:
		return expired, nil
	case []any:
		if len(expired) == 0 {
			return refused, nil
		}
		why, err := l.drop(c, key, expired)
		if refused == "" {
			refused = why
		}
		return refused, err
	}
	return "", errProtocol
}

// drop has the connections of nodes dropped that are dead, and forgets the leases of those that are gone.
func (l *lease) drop(c *conn, key string, expired []any) (refused serverError, err error) {
	ask := []string{"CLIENT", "LIST", "ID"}
	for _, v := range expired {
		text, _ := v.(string)
		for i, word := range strings.Split(text, " ") {
			if (i == 0 || i == 3) && word != "" {
				ask = append(ask, word)
			}
		}
	}
	v, err := c.do(ask...)
	if err != nil {
		return "", err
	}
	text, ok := v.(string)
	if !ok {
		refused, _ = v.(serverError)
		return refused, nil
	}
	clients := make(map[string]string)
	for line := range strings.Lines(text) {
		clients[clientField(line, "id")] = line
	}
	for _, v := range expired {
		member, _ := v.(string)
		if refused, err = l.dropOne(c, key, member, clients); err != nil || refused != "" {
			return refused, err
		}
	}
	return "", nil
}

func (l *lease) dropOne(c *conn, key, member string, clients map[string]string) (refused serverError, err error) {
	words := append(strings.Split(member, " "), "", "", "")
	node := clientID{words[0], words[1], words[2]}
	line := clients[node.id]
	if clientField(line, "addr") == node.addr {
		if !dead(line) && !dead(clients[words[3]]) {
			return "", nil // it lives, though it could not renew its lease
		}
		v, err := c.kill(node, "TYPE", "pubsub")
		if err != nil {
			return "", err
		}
		if refused, ok := v.(serverError); ok {
			return refused, nil
		}
		if v == int64(1) {
			l.s.log().Warn("redis: dropped a node that had stopped renewing its lease", "client", node.id, "addr", node.addr)
		}
	}
	v, err := c.do("ZREM", key, member)
	refused, _ = v.(serverError)
	return refused, err
}

// dead reports whether a line of CLIENT LIST is of a connection that a living node would have used.
func dead(line string) bool {
	idle, err := strconv.Atoi(clientField(line, "idle"))
	return err == nil && idle >= int(deadTime/time.Second)
}
