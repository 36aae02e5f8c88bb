package redis

import (
	"errors"
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

var errNameless = serverError("CLIENT the server does not tell a connection's name")

// keep renews the lease of this node, if there is a session, and drops nodes that are dead. What the server
// refuses is said in the log, once.
func (l *lease) keep(c *conn) error {
	err := l.keepAll(c)
	refused, ok := errors.AsType[serverError](err)
	switch {
	case err != nil && !ok:
		return err
	case refused.passes():
		return nil
	case err == nil && c.client.id == "":
		refused = errNameless
	}
	reason := ""
	if refused != "" {
		reason = refused.code()
	}
	switch {
	case l.reason == reason:
	case reason == "":
		l.s.log().Info("redis: leases of nodes are kept again")
	default:
		l.s.log().Warn("redis: a node that freezes or is cut off may stay counted in receipts until Redis itself notices; "+
			"needed are TIME, ZADD, PEXPIRE, ZRANGEBYSCORE, ZREM, CLIENT INFO, CLIENT LIST and CLIENT KILL (Redis 6.2), and that Redis takes writes", "cause", refused)
	}
	l.reason = reason
	return nil
}

// keepAll does it for all keys, by the server's clock.
func (l *lease) keepAll(c *conn) (first error) {
	v, err := c.ask("TIME")
	if err != nil {
		return err
	}
	clock, _ := v.([]any)
	if len(clock) != 2 {
		return errProtocol
	}
	seconds, _ := clock[0].(string)
	now, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return errProtocol
	}
	for _, key := range l.s.topology.leaseKeys(l.s) {
		switch err := l.keepAt(c, key, now*1000); {
		case err != nil && !isRefused(err):
			return err
		case first == nil:
			first = err
		}
	}
	return first
}

// keepAt does it for one key. The key itself goes an hour after the last renewal.
func (l *lease) keepAt(c *conn, key string, now int64) error {
	commands := [][]string{{"ZRANGEBYSCORE", key, "-inf", strconv.FormatInt(now, 10), "LIMIT", "0", "100"}}
	if member := l.member(c.client); member != "" {
		commands = append(commands,
			[]string{"ZADD", key, strconv.FormatInt(now+leaseTime.Milliseconds(), 10), member},
			[]string{"PEXPIRE", key, "3600000"})
	}
	replies, err := c.pipeline(commands...)
	if err != nil {
		return err
	}
	if expired, ok := replies[0].([]any); ok && len(expired) > 0 {
		if err := l.drop(c, key, expired); err != nil {
			return err
		}
	}
	for _, v := range replies {
		if refused, ok := v.(serverError); ok {
			return refused
		}
	}
	return nil
}

// drop has the connections of nodes dropped that are dead, and forgets the leases of those that are gone.
func (l *lease) drop(c *conn, key string, expired []any) (first error) {
	ask := []string{"CLIENT", "LIST", "ID"}
	for _, v := range expired {
		text, _ := v.(string)
		for i, word := range strings.Split(text, " ") {
			if (i == 0 || i == 3) && word != "" {
				ask = append(ask, word)
			}
		}
	}
	v, err := c.ask(ask...)
	if err != nil {
		return err
	}
	text, _ := v.(string)
	clients := make(map[string]string)
	for line := range strings.Lines(text) {
		clients[clientField(line, "id")] = line
	}
	for _, v := range expired {
		member, _ := v.(string)
		switch err := l.dropOne(c, key, member, clients); {
		case err != nil && !isRefused(err):
			return err
		case first == nil:
			first = err
		}
	}
	return first
}

func (l *lease) dropOne(c *conn, key, member string, clients map[string]string) error {
	words := append(strings.Split(member, " "), "", "", "")
	node := clientID{words[0], words[1], words[2]}
	line := clients[node.id]
	if clientField(line, "addr") == node.addr {
		if !dead(line) && !dead(clients[words[3]]) {
			return nil // it lives, though it could not renew its lease
		}
		killed, err := c.kill(node, "TYPE", "pubsub")
		if err != nil {
			return err
		}
		if killed {
			l.s.log().Warn("redis: dropped a node that had stopped renewing its lease", "client", node.id, "addr", node.addr)
		}
	}
	_, err := c.ask("ZREM", key, member)
	return err
}

// dead reports whether a line of CLIENT LIST is of a connection that a living node would have used.
func dead(line string) bool {
	idle, err := strconv.Atoi(clientField(line, "idle"))
	return err == nil && idle >= int(deadTime/time.Second)
}
