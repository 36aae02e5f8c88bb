package nats

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
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

// server is another server, where somebody is or was. Its fields are guarded by cluster.mu.
type server struct {
	present  bool      // somebody is there
	lapsed   bool      // it was not, since it last answered
	left     time.Time // when it last ceased to be
	sent     int64     // stamp of the last mark sent to it
	answered int64     // stamp of the last mark that came back; 0 if none
}

func (s *server) leave() {
	if s.present {
		s.left = time.Now()
	}
	s.present, s.lapsed = false, true
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

// look sends a mark to each server where somebody is, to learn which those are, and another to each of
// those that are known: if the route to it is broken, our own server says so.
func (c *cluster) look() error {
	c.mu.Lock()
	stamp := c.nowLocked()
	var known []string
	for id, s := range c.servers {
		if s.present {
			known = append(known, id)
		}
	}
	c.mu.Unlock()
	if err := c.conn.PublishRequest(c.all, c.reply(stamp, ""), nil); err != nil {
		return err
	}
	for _, id := range known {
		if err := c.conn.PublishRequest(c.hello+"."+id, c.reply(stamp, "."+id), nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) reply(stamp int64, end string) string {
	return c.inbox + strconv.FormatInt(stamp, 36) + end
}

// confirm returns nil when every server where somebody is knows of every change that was made so far
// in epoch e. A server that was heard of and does not answer in time does not count: if it comes back,
// there was a gap.
func (c *cluster) confirm(e epoch, patience time.Duration, deadline time.Time, closed <-chan struct{}) error {
	c.mu.Lock()
	stamp := c.nowLocked()
	c.mu.Unlock()
	var again, enough bool
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	impatient := time.NewTimer(patience)
	defer impatient.Stop()
	tick := time.NewTicker(markAgain)
	defer tick.Stop()
	for sent := false; ; sent = true {
		returned, missing, unsent, changed := c.answers(stamp, again, enough)
		if returned && missing == 0 {
			return nil
		}
		for _, id := range unsent {
			if err := c.conn.PublishRequest(c.hello+"."+id, c.reply(stamp, "."+id), nil); err != nil {
				return err
			}
		}
		if !sent {
			if err := c.conn.Publish(c.reply(stamp, "._"), nil); err != nil {
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
		case <-timer.C:
			return errSilent
		case <-closed:
			return broker.ErrClosed
		}
		if c.link.current().n != e.n {
			return errReplaced
		}
	}
}

// answers says what has come back of the marks with a stamp or a later one, and which servers have to
// be sent one. Again means those that have not answered, enough that those are given up.
func (c *cluster) answers(stamp int64, again, enough bool) (own bool, missing int, unsent []string, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own = c.own >= stamp
	for id, s := range c.servers {
		if !s.present || s.answered >= stamp {
			continue
		}
		if enough && own {
			s.leave()
			continue
		}
		missing++
		if again || s.sent < stamp {
			s.sent = stamp
			unsent = append(unsent, id)
		}
	}
	return own, missing, unsent, c.changed
}

// intact reports whether every server where somebody was since a time has been within reach, as far as can
// be told after a message to each, or a while without an answer. On a single server it always is.
func (c *cluster) intact(e epoch, since time.Time, closed <-chan struct{}) bool {
	if !c.isClustered() {
		return true
	}
	c.mu.Lock()
	stamp := c.nowLocked()
	c.mu.Unlock()
	patience := time.NewTimer(joinPatience)
	defer patience.Stop()
	for waiting := true; waiting; {
		_, missing, unsent, changed := c.answers(stamp, false, false)
		if missing == 0 {
			break
		}
		for _, id := range unsent {
			if c.conn.PublishRequest(c.hello+"."+id, c.reply(stamp, "."+id), nil) != nil {
				return false
			}
		}
		select {
		case <-changed:
		case <-patience.C:
			waiting = false
		case <-e.down:
			return false
		case <-closed:
			return false
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		if !s.left.Before(since) {
			return false
		}
	}
	return true
}

// loop answers the others, and reads their answers, until gone.
func (c *cluster) loop(in <-chan *natsio.Msg) {
	for {
		select {
		case m := <-in:
			c.read(m)
		case <-c.gone:
			return
		}
	}
}

func (c *cluster) read(m *natsio.Msg) {
	switch {
	case strings.HasPrefix(m.Subject, c.inbox):
		c.readAnswer(m.Subject[len(c.inbox):], m)
	case m.Subject == c.hello:
		if id, lost, ok := splitHello(m.Data); ok {
			c.heard(id, lost)
		}
	case m.Reply != "" && m.Sub != nil:
		c.answer(m)
	}
}

// answer answers a mark, if it has come through the server whose name the subscription bears: after
// a reconnect nats.go first renews it at another one. It says how long somebody has been there.
func (c *cluster) answer(m *natsio.Msg) {
	c.mu.Lock()
	e, id, eldest := c.epoch, c.here, c.eldest
	c.mu.Unlock()
	if now := c.link.current(); now.n != e.n {
		c.rejoin(now)
		return
	}
	if m.Sub.Queue != id {
		return
	}
	_ = c.conn.Publish(m.Reply, appendHello(nil, id, time.Since(eldest))) // it will be asked again
}

func (c *cluster) readAnswer(tail string, m *natsio.Msg) {
	digits, to, _ := strings.Cut(tail, ".")
	stamp, err := strconv.ParseInt(digits, 36, 64)
	switch {
	case err != nil:
	case to == "_":
		c.returned(stamp)
	case len(m.Data) > 0:
		if id, uptime, ok := splitHello(m.Data); ok {
			c.answered(id, stamp, uptime)
		}
	case m.Header.Get("Status") == "503":
		c.nobodyAt(to, stamp)
	}
}

// returned takes a mark that our own server has returned.
func (c *cluster) returned(stamp int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stamp <= c.last {
		c.own = max(c.own, stamp)
		c.changeLocked()
	}
}

// nobodyAt takes the word of our own server that nobody is at another one.
func (c *cluster) nobodyAt(id string, stamp int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.servers[id]; s != nil && s.answered < stamp {
		s.leave()
		c.changeLocked()
	}
}

// answered takes the answer of a broker at a server where somebody has been for a while. If we have
// not heard from there, though we were here, we missed what was published there.
func (c *cluster) answered(id string, stamp int64, uptime time.Duration) {
	there := time.Now().Add(-uptime)
	c.mu.Lock()
	if id == c.here && there.Before(c.eldest) {
		c.eldest = there
	}
	known := c.servers[id] != nil
	s := c.serverLocked(id)
	if s == nil || stamp > c.last || stamp <= s.answered {
		c.mu.Unlock()
		return
	}
	var since time.Time // the last moment that is known to be good
	switch {
	case c.entered.IsZero():
	case !known:
		since = c.entered
	case s.answered > 0 && (s.lapsed || time.Duration(stamp-s.answered) > lateLoss):
		since = c.time(s.answered)
	}
	s.present, s.lapsed, s.answered = true, false, stamp
	c.changeLocked()
	missed := c.missed
	c.mu.Unlock()
	if since.IsZero() || missed == nil {
		return
	}
	if known && there.Before(since) {
		missed(since, errRoute)
	} else if !known {
		missed(later(since, there), errRoute) // we have not heard its hello
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// heard takes a hello. lost is how long ago its sender may have published what went down with its
// server, or 0.
func (c *cluster) heard(id string, lost time.Duration) {
	c.mu.Lock()
	if s := c.serverLocked(id); s != nil && !s.present {
		s.present = true
		c.changeLocked()
	}
	missed := c.missed
	c.mu.Unlock()
	if lost > 0 && missed != nil {
		missed(time.Now().Add(-lost), errMovedAway)
	}
}

// serverLocked returns what is known of a server, or nil for our own.
func (c *cluster) serverLocked(id string) *server {
	if id == c.here {
		return nil
	}
	s := c.servers[id]
	if s == nil && len(c.servers) < maxServers {
		s = new(server)
		c.servers[id] = s
	}
	return s
}

// trim forgets servers that have long been gone.
func (c *cluster) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.servers {
		if !s.present && time.Since(c.time(max(s.sent, s.answered))) > forgetServer {
			delete(c.servers, id)
		}
	}
}

// tell has missed called, by loop, when messages may have been missed.
func (c *cluster) tell(missed func(since time.Time, cause error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed = missed
}

// appendHello appends a server's ID and a time.
func appendHello(dst []byte, id string, d time.Duration) []byte {
	return fmt.Appendf(dst, "%s %d", id, d.Milliseconds())
}

// splitHello undoes appendHello. It refuses what no server is called: anybody may have sent it.
func splitHello(data []byte) (id string, d time.Duration, ok bool) {
	id, digits, _ := strings.Cut(string(data), " ")
	ms, err := strconv.ParseInt(digits, 10, 40)
	if err != nil || ms < 0 || len(id) == 0 || len(id) > 64 || strings.ContainsAny(id, ".*> \t\r\n") {
		return "", 0, false
	}
	return id, time.Duration(ms) * time.Millisecond, true
}
