package nats

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

const (
	// settle is how long a broker that has come to a server listens for others before it counts on
	// having heard of all. It has to be longer than a route of the cluster takes there and back.
	settle = 100 * time.Millisecond

	// serverPatience is how long a confirmation waits for a server where somebody was, and
	// joinPatience how long join does.
	serverPatience = time.Second
	joinPatience   = 300 * time.Millisecond

	markAgain = 100 * time.Millisecond // between marks to a server that does not answer

	// lateLoss is how long before its death a server may have taken what it never passed on.
	lateLoss = 2 * time.Second

	forgetServer = 5 * time.Minute // after its last answer
	maxServers   = 1024
	clusterQueue = 4096 // messages that nats.go has read and loop has not
)

var (
	errJoining   = errors.New("the server is still greeting")
	errRoute     = errors.New("nats: the servers did not hear each other")
	errMovedAway = errors.New("nats: a publisher has lost its server")
)

// cluster confirms across the servers of a cluster, where interest travels from server to server a
// little behind the answer of one's own.
//
// What one server passes to another keeps its order, interest and messages alike. So when a mark that
// we sent behind our SUBs is answered by a broker at another server, that server knows of them. For
// that every broker, also one that only publishes, is in a queue group of its server on two subjects,
// of which a mark reaches one broker:
//
//	prefix.c.ID   one at the server ID; the server says 503 if there is none
//	prefix.m      one at each server: to find out where somebody is
//
// A broker that comes to a server says so on prefix.c, before it publishes anything, and waits until a
// mark that it sent behind that is answered: whoever subscribes after that counts it in, and what was
// subscribed before has arrived by the time of the answer.
//
// On a server that belongs to no cluster nothing of this happens.
type cluster struct {
	conn  *natsio.Conn
	link  *link
	base  time.Time // of the stamps
	hello string    // subject: "prefix.c"
	all   string    // subject: "prefix.m"
	inbox string    // with the dot at its end

	spawn  func(func()) bool // runs a goroutine that Close waits for; false after Close
	closed <-chan struct{}   // closed by Close
	gone   <-chan struct{}   // closed when loop is to end

	turn   chan struct{}    // capacity 1; held by join
	joined atomic.Uint64    // epoch in which there is nothing left to do
	wrote  atomic.Int64     // stamp of the last Publish
	again  atomic.Bool      // rejoin is at work
	in     chan *natsio.Msg // owned by join; nil before there is a cluster

	mu      sync.Mutex
	here    string                 // guarded by mu; server ID, empty without a cluster
	epoch   epoch                  // guarded by mu; that here is of
	entered time.Time              // guarded by mu; when join succeeded in it, or zero
	eldest  time.Time              // guarded by mu; since when somebody has been here, as far as known
	subs    []*natsio.Subscription // guarded by mu; hello, inbox, and two of the queue group
	own     int64                  // guarded by mu; the last stamp that our server has returned
	last    int64                  // guarded by mu; the last stamp that was given out
	servers map[string]*server     // guarded by mu; other ones, by ID
	changed chan struct{}          // guarded by mu; closed and replaced when own or servers change
	missed  func(time.Time, error) // guarded by mu; nil while there is no Run
}

func newCluster(b *Broker) *cluster {
	return &cluster{
		conn:    b.conn,
		link:    b.link,
		base:    time.Now(),
		hello:   b.names.cluster,
		all:     b.names.marks,
		inbox:   b.conn.NewInbox() + ".",
		spawn:   b.spawn,
		closed:  b.closed,
		gone:    b.gone,
		turn:    make(chan struct{}, 1),
		servers: make(map[string]*server),
		changed: make(chan struct{}),
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

// isClustered reports whether the server of epoch e, in which join has returned nil, is in a cluster.
func (c *cluster) isClustered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.here != ""
}

// join makes this broker known to the others, once in each epoch. It may block as long as the
// connection does.
func (c *cluster) join(e epoch, deadline time.Time, closed <-chan struct{}) error {
	if c.joined.Load() == e.n {
		return nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-e.down:
		return errReplaced
	case <-closed:
		return broker.ErrClosed
	}
	if c.joined.Load() == e.n {
		return nil
	}
	id, clustered := c.conn.ConnectedServerId(), c.conn.ConnectedClusterName() != ""
	switch {
	case c.link.current().n != e.n:
		return errReplaced
	case id == "":
		return errJoining
	case !clustered:
		c.mu.Lock()
		c.here, c.epoch = "", e
		c.mu.Unlock()
	default:
		if err := c.enter(e, id, deadline, closed); err != nil {
			return err
		}
	}
	c.joined.Store(e.n)
	return nil
}

// enter takes our place at a server and waits until the others know.
func (c *cluster) enter(e epoch, id string, deadline time.Time, closed <-chan struct{}) error {
	lost := c.moved(id)
	if err := c.subscribe(id); err != nil {
		return err
	}
	if err := c.conn.Publish(c.hello, appendHello(nil, id, lost)); err != nil {
		return err
	}
	c.mu.Lock()
	c.here, c.epoch = id, e // and not before: nobody gets an answer ahead of the hello
	c.eldest, c.entered = e.since, time.Time{}
	clear(c.servers) // those that are still there will answer
	c.mu.Unlock()
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for range 2 { // the second is for those who had come at the same time, and had not heard of us
		if err := c.look(); err != nil {
			return err
		}
		timer.Reset(settle / 2)
		select {
		case <-timer.C:
		case <-e.down:
			return errReplaced
		case <-closed:
			return broker.ErrClosed
		}
	}
	if err := c.confirm(e, joinPatience, deadline, closed); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entered = time.Now()
	return nil
}

// rejoin joins in the background. Who only publishes, and has not lately, learns from the marks of
// others that it is at another server.
func (c *cluster) rejoin(e epoch) {
	if e.ended() || !c.again.CompareAndSwap(false, true) {
		return
	}
	join := func() {
		defer c.again.Store(false)
		_ = c.join(e, time.Now().Add(timeout), c.closed) // there will be other marks
	}
	if !c.spawn(join) {
		c.again.Store(false)
	}
}

// published says that something was published just now.
func (c *cluster) published() { c.wrote.Store(int64(time.Since(c.base))) }

// moved returns how long ago something may have been lost with the server where we were, or 0.
func (c *cluster) moved(to string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.here == "" || c.here == to {
		return 0
	}
	ended, wrote := c.epoch.ending(), c.wrote.Load()
	if wrote == 0 || c.time(wrote).Before(ended.Add(-lateLoss)) {
		return 0
	}
	return time.Since(ended) + lateLoss
}

// subscribe makes the subscriptions, of which those of the queue group bear the name of the server.
func (c *cluster) subscribe(id string) error {
	c.mu.Lock()
	subs, here := c.subs, c.here
	c.mu.Unlock()
	if here == id && len(subs) == 4 {
		return nil
	}
	const plain = 2
	if c.in == nil {
		in := make(chan *natsio.Msg, clusterQueue)
		if !c.spawn(func() { c.loop(in) }) {
			return broker.ErrClosed
		}
		c.in = in
	}
	for i := len(subs); i < plain; i++ {
		sub, err := c.conn.ChanSubscribe([plain]string{c.hello, c.inbox + ">"}[i], c.in)
		if err != nil {
			return err
		}
		subs = append(subs, sub)
		c.keep(subs)
	}
	for _, sub := range subs[plain:] {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	subs = subs[:plain:plain]
	for _, subject := range []string{c.hello + "." + id, c.all} {
		sub, err := c.conn.ChanQueueSubscribe(subject, id, c.in)
		if err != nil {
			return err
		}
		subs = append(subs, sub)
		c.keep(subs)
	}
	return nil
}

func (c *cluster) keep(subs []*natsio.Subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = subs
}

// end gives the subjects back to the application's connection.
func (c *cluster) end() {
	c.mu.Lock()
	subs := c.subs
	c.mu.Unlock()
	for _, sub := range subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
}
