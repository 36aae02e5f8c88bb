package nats

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

const (
	// listenTime is how long a broker that has come to a server listens for brokers at other servers before
	// it counts on having heard of all. It has to be longer than a route takes there and back. A server
	// without a cluster is most likely alone.
	listenTime      = 100 * time.Millisecond
	listenTimeAlone = 40 * time.Millisecond

	// serverPatience is how long a confirmation waits for a server where somebody was, and
	// joinPatience how long join does.
	serverPatience = time.Second
	joinPatience   = 300 * time.Millisecond

	askAgain = 100 * time.Millisecond // between questions to a server that does not answer

	// lateLoss is how long before its death a server may have taken what it never passed on.
	lateLoss = 2 * time.Second
)

var (
	errConnecting = errors.New("the server is still greeting")
	errRoute      = errors.New("nats: the servers did not hear each other")
	errPublisher  = errors.New("nats: a publisher has lost its server, or was not heard by others")
)

// cluster confirms across servers, where interest travels from server to server a little behind the answer
// of one's own.
//
// What one server passes to another keeps its order, interest and messages alike. So when a question that
// we sent behind our SUBs is answered by a broker at another server, that server knows of them. For
// that every broker, also one that only publishes, is in a queue group of its server on two subjects,
// of which a question reaches one broker:
//
//	prefix.c.ID   one at the server ID; the server says 503 if there is none
//	prefix.m      one at each server: to find out where somebody is
//
// A broker that comes to a server says so on prefix.c, and waits until a question that it sent behind that
// is answered: brokers that subscribe after that count it in, and what was subscribed before has arrived by
// the time of the answer. It has joined then. What it publishes before is passed on at once, but that
// nobody is there is not certain yet.
//
// This holds for the routes of a cluster and for leaf nodes, which keep one order for all. It does not hold
// between clusters: a gateway sends interest and messages on different connections. So as soon as somebody
// is heard of in a cluster of another name, that nobody is there is never certain.
type cluster struct {
	conn  *natsio.Conn
	link  *link
	log   *slog.Logger
	base  time.Time // of the stamps
	hello string    // subject: "prefix.c"
	all   string    // subject: "prefix.m"
	inbox string    // with the dot at its end
	in    chan *natsio.Msg

	flushAndRead func(context.Context, epoch) error // immutable; of the broker

	closed  <-chan struct{} // closed by Close
	joined  atomic.Uint64   // epoch in which there is nothing left to do; set by keep
	wrote   atomic.Int64    // stamp of the last Publish
	foreign atomic.Bool     // somebody is in another cluster
	warned  atomic.Bool     // the log says so

	subs []*natsio.Subscription // owned by keep; hello, and two of the queue group

	mu      sync.Mutex
	here    place                  // guarded by mu
	epoch   epoch                  // guarded by mu; that here is of
	entered time.Time              // guarded by mu; when join succeeded in it, or zero
	eldest  time.Time              // guarded by mu; since when somebody has been here, as far as known
	last    int64                  // guarded by mu; the last stamp that was given out
	servers map[string]*server     // guarded by mu; other ones, by ID
	changed chan struct{}          // guarded by mu; closed and replaced when servers change
	missed  func(time.Time, error) // guarded by mu; nil while there is no Run
}

func newCluster(b *Broker) *cluster {
	return &cluster{
		conn:         b.conn,
		link:         b.link,
		log:          b.log,
		base:         time.Now(),
		hello:        b.names.cluster,
		all:          b.names.all,
		inbox:        b.inbox + clusterTail,
		in:           b.in,
		flushAndRead: b.flushAndRead,
		closed:       b.closed,
		servers:      make(map[string]*server),
		changed:      make(chan struct{}),
	}
}

// nowLocked returns the stamp of this moment: nanoseconds since base, each once.
func (c *cluster) nowLocked() int64 {
	c.last = max(c.last+1, int64(time.Since(c.base)))
	return c.last
}

func (c *cluster) time(stamp int64) time.Time { return c.base.Add(time.Duration(stamp)) }

func (c *cluster) changeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// isJoined reports whether the others know where we are.
func (c *cluster) isJoined() bool { return c.joined.Load() == c.link.current().n }

// enter notes down that everything is done that join is for.
func (c *cluster) enter(e epoch) {
	c.joined.Store(e.n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changeLocked()
}

// awaitJoined waits until the others know where we are, or as long as that takes at most. A message that is
// published before has an unknown receipt where nobody is there, and a program that emits once would never
// hear that for certain.
func (c *cluster) awaitJoined(ctx context.Context, e epoch) {
	if c.isJoined() {
		return
	}
	limit := time.NewTimer(listenTime + joinPatience)
	defer limit.Stop()
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if c.isJoined() {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		case <-e.down:
			return
		case <-c.closed:
			return
		}
	}
}

// isCertain reports whether nobody is there if our own server says so of what we publish now.
func (c *cluster) isCertain() bool { return c.isJoined() && !c.foreign.Load() }

// join makes this broker known to the others, once in each epoch. What is left to do in it is for keep, which
// sets joined.
func (c *cluster) join(e epoch) error {
	here := place{c.conn.ConnectedServerId(), clusterTag(c.conn.ConnectedClusterName())}
	if !c.link.is(e) {
		return errReplaced
	}
	if here.id == "" {
		return errConnecting
	}
	lost := c.moved(here.id)
	if err := c.subscribe(here.id); err != nil {
		return err
	}
	if err := c.conn.Publish(c.hello, appendHello(nil, here, lost)); err != nil {
		return err
	}
	c.mu.Lock()
	c.here, c.epoch = here, e // and not before: nobody gets an answer ahead of the hello
	c.eldest, c.entered = e.since, time.Time{}
	clear(c.servers) // those that are still there will answer
	c.mu.Unlock()
	for range 2 { // the second is for nodes that had come at the same time, and had not heard of this one
		if err := c.listen(e, here.listens()/2); err != nil {
			return err
		}
	}
	if err := c.confirm(context.Background(), e, joinPatience); err != nil {
		return err
	}
	c.mu.Lock()
	c.entered = time.Now()
	c.mu.Unlock()
	return nil
}

// listen looks for others, and hears what comes for a time: a longer one where our own server, or this process,
// is slow.
func (c *cluster) listen(e epoch, wait time.Duration) error {
	if err := c.look(); err != nil {
		return err
	}
	begin := time.Now()
	if err := c.flushAndRead(context.Background(), e); err != nil {
		return err
	}
	select {
	case <-time.After(max(wait, min(4*time.Since(begin), serverPatience))):
	case <-e.down:
		return errReplaced
	case <-c.closed:
		return broker.ErrClosed
	}
	return c.flushAndRead(context.Background(), e)
}

// published says that something was published just now.
func (c *cluster) published() { c.wrote.Store(int64(time.Since(c.base))) }

// moved returns how long ago something may have been lost with the server where we were, or 0.
func (c *cluster) moved(to string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.here.id == "" || c.here.id == to {
		return 0
	}
	ended, wrote := c.epoch.ending(), c.wrote.Load()
	if wrote == 0 || c.time(wrote).Before(ended.Add(-lateLoss)) {
		return 0
	}
	return time.Since(ended) + lateLoss
}

// subscribe makes the subscriptions, of which those of the queue group bear the ID of the server.
func (c *cluster) subscribe(id string) error {
	if len(c.subs) == 3 && c.subs[2].Queue == id {
		return nil
	}
	c.unsubscribe()
	hello, err := c.conn.ChanSubscribe(c.hello, c.in)
	if err != nil {
		return err
	}
	c.subs = append(c.subs, hello)
	for _, subject := range []string{c.hello + "." + id, c.all} {
		sub, err := c.conn.ChanQueueSubscribe(subject, id, c.in)
		if err != nil {
			return err
		}
		c.subs = append(c.subs, sub)
	}
	return nil
}

// unsubscribe ends the subscriptions: what is wrong with them the next join mends.
func (c *cluster) unsubscribe() {
	for _, sub := range c.subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	c.subs = nil
}

// look asks at each server where somebody is, to learn which those are, and again at each that is known: if
// the route to it is broken, our own server says so.
func (c *cluster) look() error {
	c.mu.Lock()
	stamp, here := c.nowLocked(), c.here
	var known []string
	for id, s := range c.servers {
		if s.present {
			known = append(known, id)
		}
	}
	c.mu.Unlock()
	if err := c.conn.PublishRequest(c.all, c.reply(stamp, ""), appendHello(nil, here, 0)); err != nil {
		return err
	}
	for _, id := range known {
		if err := c.ask(id, stamp); err != nil {
			return err
		}
	}
	return nil
}

// ask asks a broker at a server. The reply says of which, for the 503 of our own server.
func (c *cluster) ask(id string, stamp int64) error {
	return c.conn.PublishRequest(c.hello+"."+id, c.reply(stamp, "."+id), nil)
}

func (c *cluster) reply(stamp int64, end string) string {
	return c.inbox + strconv.FormatInt(stamp, 36) + end
}

// confirm returns nil when every other server where somebody is knows of every change that our own server
// had taken, in epoch e. A server that was heard of and does not answer in time does not count: if it comes
// back, there was a gap.
func (c *cluster) confirm(ctx context.Context, e epoch, patience time.Duration) error {
	c.mu.Lock()
	stamp := c.nowLocked()
	c.mu.Unlock()
	impatient := time.NewTimer(patience)
	defer impatient.Stop()
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for again, enough := false, false; ; {
		missing, unasked, changed := c.answers(stamp, again, enough)
		if missing == 0 {
			return nil
		}
		for _, id := range unasked {
			if err := c.ask(id, stamp); err != nil {
				return err
			}
		}
		again = false
		select {
		case <-changed:
		case <-tick.C:
			again = true
		case <-impatient.C:
			enough = true
		case <-e.down:
			return errReplaced
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closed:
			return broker.ErrClosed
		}
		if !c.link.is(e) {
			return errReplaced
		}
	}
}

// answers says how many servers have not answered a question with a stamp or a later one, and which of them
// have to be asked. Again means all of them, enough that they are given up.
func (c *cluster) answers(stamp int64, again, enough bool) (missing int, unasked []string, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.servers {
		if !s.present || s.answered >= stamp {
			continue
		}
		if enough {
			s.leave()
			continue
		}
		missing++
		if again || s.asked < stamp {
			s.asked = stamp
			unasked = append(unasked, id)
		}
	}
	return missing, unasked, c.changed
}
