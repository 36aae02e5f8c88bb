package cluster

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/internal/group"
	"tether/internal/wire"
)

// Options of a Node.
type Options struct {
	// Prefix begins all subjects; nodes that share it are one cluster.
	Prefix string

	// Tag tells this node from all others that there are, were or will be.
	Tag string

	// Head is put before each message, so that the owner of the broker's Deliver can tell what comes on a
	// subject that has other messages too. [Node.Deliver] gets messages without it.
	Head []byte

	// Self says how this node is now, but for its Tag, and since when. It is asked about once a second,
	// and must return quickly. Nil: this node is a guest, which is not on the list and answers nothing.
	Self func() Member

	// Answer answers a question of any node's, this one included, until ctx is done. It runs on a
	// goroutine of its own. An error is told to the asker in words. Nil: there is nothing to answer.
	Answer func(ctx context.Context, r *Request) error

	// OnChange is told the list after each change of it, but for numbers of connections: one call at a
	// time, and when changes come quickly, one for several of them. Nil: not called.
	OnChange func([]Member)

	// Logger gets what an operator should know. Nil: nothing.
	Logger *slog.Logger
}

// Node is one process's part in the cluster.
type Node struct {
	o       Options // immutable
	broker  broker.Broker
	log     *slog.Logger
	subject string // this node's own

	out      chan broker.Message // answers and the like; see send
	announce chan struct{}       // one token: say at once how this node is
	news     chan struct{}       // one token: the list has changed
	running  atomic.Bool
	left     chan struct{} // closed when Run has ended
	outcomes outcomes

	// The root of the contexts of answers: they end when Run does, and Deliver, which begins them, has none.
	answering    context.Context
	endAnswering context.CancelFunc
	work         group.Group // answers

	mu       sync.Mutex
	handlers map[byte]func(context.Context, *Request) error // guarded by mu; by topic
	services []Service                                      // guarded by mu; until Run runs them
	roll     roll                                           // guarded by mu
	peer     string                                         // guarded by mu; see SetPeer
	digest   uint64                                         // guarded by mu; see SetDigest
	beats    uint64                                         // guarded by mu; said so far
	guests   []newGuest                                     // guarded by mu; the oldest first
	changed  chan struct{}                                  // guarded by mu; closed and replaced when the list changes
	asked    uint64                                         // guarded by mu; questions so far
	asking   map[uint64]*Asking                             // guarded by mu; by number
	requests map[requestKey]*Request                        // guarded by mu; that are being answered
	runs     uint64                                         // guarded by mu; answers so far
	answered map[requestKey]answered                        // guarded by mu; that must not be answered twice
}

// ErrNotRunning says that answers cannot come, because Run is not running.
var ErrNotRunning = errors.New("cluster: this node is not running")

// MembersSubject is where all nodes say that they are there.
func MembersSubject(prefix string) string { return prefix + "@members" }

// NodeSubject is the subject of one node. A tag is not "members".
func NodeSubject(prefix, tag string) string { return prefix + "@" + tag }

// New returns a node on b. It starts nothing: Run does.
func New(b broker.Broker, o Options) *Node {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{
		o:        o,
		broker:   b,
		log:      o.Logger,
		subject:  NodeSubject(o.Prefix, o.Tag),
		out:      make(chan broker.Message, outSize),
		announce: make(chan struct{}, 1),
		news:     make(chan struct{}, 1),
		roll:     newRoll(o.Tag),
		changed:  make(chan struct{}),
		left:     make(chan struct{}),
		handlers: make(map[byte]func(context.Context, *Request) error),
		asking:   make(map[uint64]*Asking),
		requests: make(map[requestKey]*Request),
		answered: make(map[requestKey]answered),
	}
	n.answering, n.endAnswering = context.WithCancel(context.Background())
	return n
}

// Handle gives questions on a topic an answer of their own, in place of that of the options. Others see in
// [Member.Topics] that this node answers them, from its next beat on. Nil: as the options say again.
func (n *Node) Handle(topic byte, answer func(ctx context.Context, r *Request) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if answer == nil {
		delete(n.handlers, topic)
	} else {
		n.handlers[topic] = answer
	}
}

// SetPeer sets the URL at which this node takes requests of other nodes over HTTP: see [Member.Peer]. Others see it
// from its next beat on.
func (n *Node) SetPeer(url string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peer = url
}

// SetDigest sets a number that stands for what this node knows, and others have to know too, see package revoke: one with
// another number may know more. Others see it with its next beat, as [Member.Digest], and OnChange is not told. 0: nothing.
func (n *Node) SetDigest(digest uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.digest = digest
}

// Service is something that runs as long as a node does.
type Service interface {
	// Run is called by the node's, which waits for it. When ctx is done the node is about to end: it can still
	// ask, and is asked, until Run has returned.
	Run(ctx context.Context)
}

// Attach adds a service. It is called before Run.
func (n *Node) Attach(s Service) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services = append(n.services, s)
}

// Services are those that were attached.
func (n *Node) Services() []Service {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.services)
}

// Tag tells this node from all others.
func (n *Node) Tag() string { return n.o.Tag }

// Subjects are what the caller has to keep subscribed while Run runs.
func (n *Node) Subjects() []string { return []string{MembersSubject(n.o.Prefix), n.subject} }

// Deliver takes a message without its head, which may be kept. It does not block, and does not call the
// broker. It reports whether the message could be read.
func (n *Node) Deliver(data []byte) bool {
	r := reader{wire.Reader{Data: data}}
	switch r.Byte() {
	case typeBeat:
		b, ok := parseBeat(&r)
		if ok {
			n.takeBeat(b)
		}
		return ok
	case typeAsk:
		return n.takeAsk(&r)
	case typePage:
		return n.takePage(&r)
	case typeMore:
		return n.takeMore(&r)
	case typeEnd:
		return n.takeEnd(&r)
	case typeWorking:
		return n.takeWorking(&r)
	}
	return false
}

// Members are the nodes that are there, sorted by name; this one is among them unless it is a guest. The
// error is ErrIncomplete or ErrStale when the list may be wrong: it is the best that there is even so.
func (n *Node) Members() ([]Member, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.roll.list(), n.roll.err(time.Now())
}

// Lookup is the node with a tag, if it is there: the list is as that of Members.
func (n *Node) Lookup(tag string) (m Member, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.roll.has(tag) {
		return m, false
	}
	return n.roll.entries[tag].Member, true
}

// Standing is how a node's word can be trusted by itself: what it has found out about the others holds for as
// long as none of it changes.
type Standing struct {
	Changes  uint64        // of the list so far
	Absences uint64        // times in which this node did not hear itself, so that others may have given it up
	Absence  time.Duration // how long the last of these was
	Err      error         // as that of Members
}

// Standing is that of now. It costs a lock and no more.
func (n *Node) Standing() Standing {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.roll.standing
	s.Err = n.roll.err(time.Now())
	return s
}

// Changed is closed at the next change of the list.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// AwaitMembers is Members once the list is complete, or what is known when ctx is done.
func (n *Node) AwaitMembers(ctx context.Context) ([]Member, error) {
	for {
		list, err := n.Members()
		if !errors.Is(err, ErrIncomplete) || ctx.Err() != nil {
			return list, err
		}
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		timer := time.NewTimer(lookInterval)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// Announce says at once how this node is: when it begins to drain, say.
func (n *Node) Announce() { give(n.announce) }

// give puts a token into a channel for one.
func give(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Subscribed says that the broker is running and the subjects are subscribed: from now on this node can ask.
func (n *Node) Subscribed() { n.running.Store(true) }

// Running reports whether this node can ask: it is subscribed, and has not ended.
func (n *Node) Running() bool { return n.running.Load() }

// Run has this node be a member until ctx is done, and says so then. It is called after Subscribed, once.
func (n *Node) Run(ctx context.Context) {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { n.beat(inner) })
	wg.Go(func() { n.watch(inner) })
	wg.Go(func() { n.send(inner) })
	serving, endServices := context.WithCancel(inner)
	defer endServices()
	var services sync.WaitGroup
	for _, s := range n.Services() {
		services.Go(func() { s.Run(serving) })
	}
	<-ctx.Done()
	endServices()
	services.Wait()
	n.running.Store(false)
	n.work.Close()
	patience, cancel := context.WithTimeout(inner, lastAnswers)
	_ = n.work.WaitFor(patience)
	cancel()
	n.endAnswering()
	n.work.Wait()
	stop()
	wg.Wait()
	if n.o.Self != nil {
		n.say(context.WithoutCancel(ctx), beatBye)
	}
	close(n.left)
}

const (
	publishTimeout = 2 * time.Second
	lastAnswers    = 200 * time.Millisecond // that answers under way have when the node ends
	outSize        = 1024                   // messages that wait to be sent
	outBatch       = 256                    // messages in one broker call
	outBytes       = 1 << 20
)

// post has a message sent to a node. It waits while too many others do.
func (n *Node) post(ctx context.Context, tag string, data []byte) error {
	select {
	case n.out <- broker.Message{Subject: NodeSubject(n.o.Prefix, tag), Data: data}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tryPost is post for what can be done without.
func (n *Node) tryPost(tag string, data []byte) {
	select {
	case n.out <- broker.Message{Subject: NodeSubject(n.o.Prefix, tag), Data: data}:
	default:
	}
}

// send sends what has been posted, in order, and what has gathered in one call. It ends with ctx, and sends
// what there is then.
func (n *Node) send(ctx context.Context) {
	batch := make([]broker.Message, 0, outBatch)
	for {
		select {
		case m := <-n.out:
			batch = append(batch[:0], m)
		case <-ctx.Done():
			if len(n.out) == 0 {
				return
			}
			batch = batch[:0]
		}
		for size := 0; len(batch) < outBatch && size < outBytes && len(n.out) > 0; {
			m := <-n.out // nobody else receives
			size += len(m.Data)
			batch = append(batch, m)
		}
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
		if _, err := n.broker.Publish(attempt, batch...); err != nil {
			n.log.Warn("answers to other nodes are lost", "messages", len(batch), "error", err)
		}
		cancel()
		clear(batch)
	}
}
