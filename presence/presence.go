package presence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/internal/group"
)

// Options of a Presence. The zero value is ready to use, and tells nobody.
type Options struct {
	// Grace is how long a user whose last device has gone still counts as online for OnChange, so that a
	// reload, or a client that comes back, is no change. Default 10 s; negative: none. It is the same on all
	// nodes.
	Grace time.Duration

	// OnChange is told of the first device of a user and of the last. See Event. Each change is told on one
	// node; those of one user one after the other, and those of different users at the same time. Ctx ends when
	// the hub will not wait any longer. Nil: nobody is told, and this node takes no part in finding out.
	OnChange func(ctx context.Context, e Event)

	// OnDevice is told of every device that comes and goes, and of every session that has waited in vain for its client,
	// on one node of the cluster, in order for each user, and as OnChange is. Nil: nobody is told.
	OnDevice func(ctx context.Context, e DeviceEvent)

	// Workers is how many calls of OnChange and OnDevice may be under way on this node. Default 16.
	Workers int

	// RoomEvent is what sockets that watch a room are sent, with a RoomChange. Default "presence".
	RoomEvent string

	// RoomInterval is how long changes of rooms are gathered before other nodes are told, and again before the
	// sockets that watch are. Default 500 ms.
	RoomInterval time.Duration

	// RoomDataBytes is how large the data of Enter may be, as JSON. Default 1024, at most 16384.
	RoomDataBytes int

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// Event is that a user has come online, or gone offline. The first device makes the one, and the last the other
// when the grace is over. Of one user they alternate.
type Event struct {
	Namespace string
	User      hub.Target
	Online    bool

	// ID is different for each change. Should a change be told twice, it has the same ID again: that happens
	// when the node that told it dies before another one knows that it has.
	ID string
}

// DeviceEvent is that a device has come or gone, or that the session of one that has gone does not wait any more for its
// client, see [hub.Recovery].
type DeviceEvent struct {
	Namespace string
	User      hub.Target
	Socket    string         // its ID
	Node      cluster.Member // that it is on
	Since     time.Time      // by the clock of its node
	Gone      bool
	NodeGone  bool       // it, or what waited, has gone with its node, which was given up
	Expired   hub.Reason // why its client has not come back to its session; "": it has only gone, or come
	ID        string     // as that of an Event
}

const (
	defaultGrace    = 10 * time.Second
	defaultWorkers  = 16
	defaultInterval = 500 * time.Millisecond
	defaultData     = 1 << 10  // bytes
	maxData         = 16 << 10 // bytes; what several nodes say fits into messages of 64 KiB
)

// Presence is one node's part in knowing who is online.
type Presence struct {
	o      Options // immutable, with defaults
	hub    *hub.Hub
	node   *cluster.Node
	tag    string
	prefix int // length of what all keys begin with
	log    *slog.Logger

	work    group.Group     // lanes, and workers that run hooks
	hooks   context.Context // of hooks; endHooks ends it
	endHook context.CancelFunc

	mu       sync.Mutex
	up       bool                // guarded by mu; Run runs
	ending   bool                // guarded by mu; the node is about to end
	joined   bool                // guarded by mu; this node takes part
	watchers []func(Event)       // guarded by mu; of Watch
	turn     chan struct{}       // guarded by mu; closed and replaced when something below changes that others wait for
	holdings map[string]*holding // guarded by mu; the users of this node, by key
	waits    map[string]*awaited // guarded by mu; the sessions that wait here, by the ID of the socket
	number   uint64              // guarded by mu; changes of holdings so far

	// What this node owns, is the deputy of, or has been. Guarded by mu; see owner.go and sync.go.
	records   map[string]*record
	standing  cluster.Standing // when the view was looked at
	view      *view            // nil: not yet
	past      []*view          // since this node was last absent
	heard     time.Time        // since when this node hears itself
	lost      time.Time        // when a node was last missing in a view that had been in the one before
	base      *view            // with which this node was last active, unless it has been another since
	active    bool             // this node knows all of the users that it owns in this view
	settled   bool             // it has been active, or is old enough: see newTime
	decides   time.Time        // since when it is active
	term      uint64           // see version
	seq       uint64
	ready     []*record            // with something to be told
	workers   int                  // that run hooks
	running   int                  // hooks under way
	pulled    map[string]time.Time // when owners have pulled from this node, in this view
	spareFrom time.Time            // when one has last; zero: what that makes spare has been dropped
	dying     bool                 // there are records of users who are offline
	swept     time.Time

	words  outbox[*holding]
	copies outbox[*record]

	// What this node shows in rooms, and what its sockets watch. Guarded by mu; see room.go, stay.go and watch.go.
	seats     map[*hub.Socket][]*seat
	stays     map[string]*stay // by the subject of the room
	noted     uint64           // changes of stays so far
	changed   map[*stay]struct{}
	gathering bool                     // a goroutine waits until an interval is over
	watched   map[string]*watched      // by the subject of the room
	watching  map[*hub.Socket][]string // the rooms that a socket watches
	feeds     outbox[*feed]
	parts     outbox[*part]
}

// complete checks the options, and gives them their defaults.
func (o *Options) complete() error {
	switch {
	case o.Workers < 0:
		return fmt.Errorf("options: Workers is %d: a number of calls cannot be negative, 0 is the default", o.Workers)
	case o.RoomInterval < 0:
		return fmt.Errorf("options: RoomInterval is %v: a time cannot be negative, 0 is the default", o.RoomInterval)
	case o.RoomDataBytes < 0 || o.RoomDataBytes > maxData:
		return fmt.Errorf("options: RoomDataBytes is %d: it is 1 to %d, or 0 for the default", o.RoomDataBytes, maxData)
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	o.Grace = max(o.Grace, 0)
	o.Workers = cmp.Or(o.Workers, defaultWorkers)
	o.RoomEvent = cmp.Or(o.RoomEvent, "presence")
	o.RoomInterval = cmp.Or(o.RoomInterval, defaultInterval)
	o.RoomDataBytes = cmp.Or(o.RoomDataBytes, defaultData)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	return nil
}

// New makes the presence of a hub. It is called before Run of the hub.
func New(h *hub.Hub, o Options) (*Presence, error) {
	if h == nil {
		return nil, errors.New("presence: there is no hub")
	}
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	node := h.Emitter().Cluster()
	if Of(h) != nil {
		return nil, errors.New("presence: this hub has one already")
	}
	p := &Presence{
		o: o, hub: h, node: node, tag: node.Tag(), log: o.Logger.With("node", h.Node()),
		prefix:   len(h.Emitter().Subject(hub.Everyone)) - len("/,"),
		turn:     make(chan struct{}),
		holdings: make(map[string]*holding),
		waits:    make(map[string]*awaited),
		records:  make(map[string]*record),

		seats:    make(map[*hub.Socket][]*seat),
		stays:    make(map[string]*stay),
		changed:  make(map[*stay]struct{}),
		watched:  make(map[string]*watched),
		watching: make(map[*hub.Socket][]string),
	}
	p.hooks, p.endHook = context.WithCancel(context.Background()) // ends with Run
	p.words = outbox[*holding]{p: p, route: p.routeWord, send: p.sendWords}
	p.copies = outbox[*record]{p: p, route: p.routeCopy, send: p.sendCopies}
	p.feeds = outbox[*feed]{p: p, route: p.routeFeed, send: p.sendFeeds}
	p.parts = outbox[*part]{p: p, route: p.routePart, send: p.sendRooms}
	node.Handle(topicOnline, p.answerOnline)
	node.Handle(topicPull, p.answerPull)
	node.Handle(topicWord, p.answerWord)
	node.Handle(topicCopy, p.answerCopy)
	node.Handle(topicRooms, p.answerRooms)
	node.Handle(topicFeed, p.answerFeed)
	node.Attach(p)
	h.OnRegistered(p.told)
	return p, nil
}

// Of is the presence of a hub, nil if it has none.
func Of(h *hub.Hub) *Presence {
	for _, s := range h.Emitter().Cluster().Services() {
		if p, ok := s.(*Presence); ok {
			return p
		}
	}
	return nil
}

// Watch has f told, too, of each change that this node tells, before OnChange is; f must return quickly. It is for
// tests and figures.
func (p *Presence) Watch(f func(Event)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = append(p.watchers, f)
}

// Users is how many users have a device on this node, with those whose last one has gone a moment ago.
func (p *Presence) Users() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	away := make(map[*holding]bool) // only sessions of theirs are here
	for _, w := range p.waits {
		for _, h := range w.of {
			if !slices.ContainsFunc(h.devices, func(d held) bool { return !d.is(deviceWaits) }) {
				away[h] = true
			}
		}
	}
	return len(p.holdings) - len(away)
}

// Done is closed when the node has ended, and this one tells nothing any more.
func (p *Presence) Done() <-chan struct{} { return p.hooks.Done() }

// turnLocked tells all that wait that something has changed.
func (p *Presence) turnLocked() {
	close(p.turn)
	p.turn = make(chan struct{})
}

// until waits until ready, which is called with the lock held, reports true, and returns with the lock held. It
// reports false when ctx is done.
func (p *Presence) until(ctx context.Context, ready func() bool) bool {
	p.mu.Lock()
	for !ready() {
		turn := p.turn
		p.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			p.mu.Lock()
			return ready()
		}
		p.mu.Lock()
	}
	return true
}

const (
	lookInterval = 250 * time.Millisecond // between two looks at whether this node hears itself
	endLimit     = 7 * time.Second        // that the end of a node takes for this: by then one that has died is off the list
	deafLimit    = 3 * time.Second        // the same for a node that does not hear itself
)

// join has this node take part, once it knows who else does: the others would wait for it.
func (p *Presence) join() {
	p.mu.Lock()
	p.joined = true
	p.mu.Unlock()
	nothing := func(context.Context, *cluster.Request) error { return nil }
	p.node.Handle(topicPart, nothing)
	if p.o.OnChange != nil || p.o.OnDevice != nil {
		p.node.Handle(topicOwner, nothing)
	}
	p.node.Announce()
}

// Run implements [cluster.Service]: the hub calls it.
func (p *Presence) Run(ctx context.Context) {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	p.mu.Lock()
	p.up = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.follow(inner) })
	<-ctx.Done()
	p.end(inner)
	stop()
	wg.Wait()
	p.endHook()
	p.work.Close()
	p.work.Wait()
}

// handedOverLocked reports whether the owners have pulled what this node knows, if it owns nothing any more, and
// otherwise whether it is one that can decide. One that knows of nobody has nothing to hand over.
func (p *Presence) handedOverLocked() bool {
	if p.view == nil || len(p.view.owners) == 0 || len(p.records)+len(p.holdings) == 0 {
		return true
	}
	if p.view.owns(p.tag) {
		return p.view.ending && p.liveLocked()
	}
	return !slices.ContainsFunc(p.view.owners, func(c candidate) bool { return p.pulled[c.tag].IsZero() })
}

// allToldLocked reports whether nothing is left to be told of the users that this node owns. If the last other owner has
// just ended, that is not known before this node has asked it.
func (p *Presence) allToldLocked() bool {
	if p.view == nil || !p.view.owns(p.tag) {
		return true
	}
	if p.decides.IsZero() {
		return true // it has only just come
	}
	if !p.liveLocked() {
		return false
	}
	for _, r := range p.records {
		if p.view.owner(r.hash) == p.tag && (!r.change.settled() || len(r.untold()) > 0 || r.change.online && r.present() == 0) {
			return false
		}
	}
	return true
}

// end lets what is known here reach the others before the node has gone. When all nodes end nobody will tell of
// the users in their grace any more: that is done now.
func (p *Presence) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	deaf := time.AfterFunc(deafLimit, func() { // it does not wait
		if p.node.Standing().Err != nil {
			cancel()
		}
	})
	defer deaf.Stop()
	p.until(ctx, func() bool { return p.words.emptyLocked() && p.handedOverLocked() })
	p.ending = true
	for _, r := range p.records {
		if p.ownedLocked(r) {
			p.evaluateLocked(r)
		}
	}
	p.mu.Unlock()
	p.until(ctx, func() bool {
		return p.words.emptyLocked() && p.copies.emptyLocked() && p.running == 0 && len(p.ready) == 0 && p.allToldLocked()
	})
	owner := p.view != nil && p.view.owns(p.tag)
	p.mu.Unlock()
	if owner { // those that end a little later own its users then
		p.node.Handle(topicOwner, nil)
		p.node.Announce()
	}
	p.until(ctx, func() bool { return p.running == 0 && p.handedOverLocked() && (p.view == nil || !p.view.owns(p.tag)) })
	p.up = false
	for _, r := range p.records {
		r.stopTimer()
	}
	p.mu.Unlock()
}
