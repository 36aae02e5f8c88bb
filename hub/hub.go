package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/broker/seal"
	"tether/cluster"
	"tether/engine"
	"tether/internal/budget"
	"tether/internal/group"
	"tether/internal/socketio"
)

// The order of locks. A goroutine that holds one of these may take one that stands behind it, and no other:
//
//	devices.mu -> Socket.mu -> client.mu
//	                        -> shard.mu -> interest.mu
//	                        -> Socket.mu of the socket that the session goes to
//
// All others (of Hub, rosters, deadlines, incomplete packets) are taken with none of these held, or as the
// last. None is held while a connection, the broker or code of the application is called, nor during a send
// on a channel that may wait. A transport asks for the state of a gate with its own lock held: that is an
// atomic, and the transport asks the hub for nothing else then.

// Hub is one node's Socket.IO server, without the transport.
type Hub struct {
	options   Options // immutable, with defaults
	limits    socketio.Limits
	log       *slog.Logger
	broker    *seal.Broker // on the caller's, which is not closed here
	tag       string       // in the IDs of this node's sockets
	subject   string       // the node's own
	own       []membership // nobody's; they keep the subjects subscribed that every node has
	since     time.Time    // when this node began
	cluster   *cluster.Node
	publisher *publisher
	index     *index
	interest  *interest

	// The root of the contexts that handlers get: a hub has many, and they outlive Run's, which is done
	// when the drain begins. endHandlers is called when Run waits no longer.
	handlerContext context.Context
	endHandlers    context.CancelFunc

	mu       sync.Mutex
	fixed    map[string]*Namespace // guarded by mu
	children map[string]*Namespace // guarded by mu; matched namespaces with a socket in them
	patterns []*Namespace          // guarded by mu

	clients roster[client]
	sockets roster[Socket]

	joining    unjoined           // connections without a namespace
	assembling deadlines[*client] // connections with a packet whose attachments are missing
	incomplete incompletePackets  // these packets
	expiry     expiry

	parked     deadlines[*Socket] // whose clients may come back
	lapsed     lapsed             // sessions that have ended meanwhile
	remembered deadlines[*Socket] // that know what the node before has seen
	ending     atomic.Bool        // no session waits any more
	lingers    time.Duration      // lingerLimit, but in tests
	guests     guests
	departed   departed
	takings    takings
	fences     fences
	forwards   chan forwarded // see forward
	forwarding atomic.Int32   // of them that have not been published yet
	searches   struct {
		second atomic.Int64
		n      atomic.Int32
	}
	kept      broker.Log         // nil without Recovery.Log
	records   deadlines[*Socket] // whose records are to be saved
	drops     deadlines[dropping]
	arrivals  arrivals
	logs      *engine.LogTotal // of all sessions
	positions atomic.Uint64    // of events, so far

	work       group.Group // the goroutines that run handlers and hooks
	started    atomic.Bool
	unstarted  sync.Once // tells that clients come before Run was called
	draining   atomic.Bool
	watched    atomic.Bool           // there are functions of OnAnyOutgoing
	live       chan struct{}         // closed when the node's own subject is subscribed
	state      atomic.Pointer[error] // what the broker said of itself last
	devices    devices
	registered atomic.Pointer[[]func(*Socket, Target)] // the functions of OnRegistered; nil: none
	polls      atomic.Uint64                           // so far; see poll
	counters   counters
}

// New returns a hub on b. It starts nothing: Run does. The caller closes b when Run has returned.
func New(b broker.Broker, o Options) (*Hub, error) {
	if b == nil {
		return nil, errors.New("hub: there is no broker: memory.NewBus().Broker() is one for a single process")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	tag := newTag()
	if o.Node == "" {
		o.Node = tag
	}
	log := o.Logger.With("node", o.Node)
	h := &Hub{
		options: o,
		limits: socketio.Limits{
			Depth:       o.Limits.Depth,
			Attachments: o.Limits.Attachments,
			Args:        o.Limits.Args,
			EventName:   o.Limits.EventName,
			Namespace:   o.Limits.Namespace,
		},
		log:        log,
		broker:     seal.New(b, seal.Options{Keys: o.Key, Time: o.Time, Logger: log}),
		tag:        tag,
		subject:    cluster.NodeSubject(o.Prefix, tag),
		since:      o.Time(),
		index:      newIndex(),
		fixed:      make(map[string]*Namespace),
		children:   make(map[string]*Namespace),
		live:       make(chan struct{}),
		joining:    unjoined{handshakes: budget.Budget{Limit: o.Limits.TotalHandshakeBytes}},
		incomplete: incompletePackets{budget.Budget{Limit: o.Limits.TotalAttachmentBytes}},
		devices:    newDevices(),
	}
	h.logs = engine.NewLogTotal(o.Recovery.TotalBytes)
	h.forwards = make(chan forwarded, maxForwards)
	h.lingers = lingerLimit
	h.handlerContext, h.endHandlers = context.WithCancel(context.Background())
	h.publisher = newPublisher(h.broker, o.Prefix, o.Events, h)
	h.publisher.tracers = o.Tracers
	if o.Recovery.On {
		h.publisher.identify()
	}
	if err := h.openLog(); err != nil {
		return nil, err
	}
	h.interest = newInterest(h.broker, h.index, h.log, h.gap)
	h.cluster = h.newCluster()
	h.publisher.cluster = h.cluster
	for _, subject := range h.cluster.Subjects() { // subject is one of them
		h.own = append(h.own, h.interest.join(subject, nil))
	}
	notYet := ErrNotRunning
	h.state.Store(&notYet)
	h.Of(socketio.Root)
	return h, nil
}

// Node is this node's name.
func (h *Hub) Node() string { return h.options.Node }

// Emitter returns an emitter to "/", on all nodes.
func (h *Hub) Emitter() *Emitter { return h.Of(socketio.Root).Emitter() }

// Ready returns nil while this node should get new connections: Run is running, messages make the
// round trip through the broker, the broker has not ended a subscription that is still wanted, no drain has
// begun, and the node has not come among others that it cannot understand for want of their key.
func (h *Hub) Ready() error {
	if h.draining.Load() {
		return ErrDraining
	}
	if err := *h.state.Load(); err != nil {
		return err
	}
	select {
	case <-h.live:
		if err := h.publisher.stranger(); err != nil {
			return err
		}
		return h.interest.missing()
	default:
		return ErrNotRunning
	}
}

// Of returns the namespace with the given name, which begins with "/"; the slash is added if it is
// missing. It is created on first use, and stays. "/" is always there. Of panics if the name has a
// comma or a control character in it: no client could ever join that.
func (h *Hub) Of(name string) *Namespace {
	name = withSlash(name)
	if !socketio.ValidNamespace(name) {
		panic(fmt.Sprintf("hub: a namespace cannot be called %q", name))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.fixed[name]
	if n == nil {
		n = h.newNamespace(name)
		h.fixed[name] = n
	}
	return n
}

func withSlash(name string) string {
	if name == "" || name[0] != '/' {
		return "/" + name
	}
	return name
}

func (h *Hub) newNamespace(name string) *Namespace {
	return &Namespace{hub: h, name: name, subject: roomSubject(h.options.Prefix, name, Everyone)}
}

// Socket is the connected socket of this node with the given ID, whatever its namespace; nil if there is none.
// For what concerns sockets of other nodes too there are the methods of [Emitter], with [SocketID].
func (h *Hub) Socket(id string) *Socket {
	if s := h.socket(id); s != nil && s.Connected() {
		return s
	}
	return nil
}

// Match returns a pattern: its handlers serve every namespace whose name match accepts and that Of has
// not been asked for. Patterns are tried in the order of the calls. Such a namespace is there while it
// has a socket. Match must return quickly; it may be called concurrently, with any name that a client
// sends.
func (h *Hub) Match(match func(name string) bool) *Namespace {
	mustHandle("Match", match == nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	n := &Namespace{hub: h, match: match}
	h.patterns = append(slices.Clip(h.patterns), n)
	return n
}

// namespace returns the namespace that a client asks for, or nil. It counts as used until release.
func (h *Hub) namespace(name string) (n *Namespace, err error) {
	h.mu.Lock()
	n, patterns := h.fixed[name], h.patterns
	h.mu.Unlock()
	if n != nil {
		return n, nil
	}
	pattern, err := matching(patterns, name)
	if err != nil {
		h.counters.panics.Add(1)
		h.log.Error("match of a namespace panicked", "error", err)
		return nil, engine.Because(ReasonServerClose, err)
	}
	if pattern == nil {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n = h.children[name]
	if n == nil {
		n = h.newNamespace(name)
		n.pattern = pattern
		h.children[name] = n
	}
	n.users++
	return n, nil
}

func matching(patterns []*Namespace, name string) (pattern *Namespace, err error) {
	defer recoverInto(&err)
	for _, p := range patterns {
		if p.match(name) {
			return p, nil
		}
	}
	return nil, nil
}

// release says that a socket, or one that was refused, no longer uses n.
func (h *Hub) release(n *Namespace) {
	if n.pattern == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(h.children, n.name)
	}
}

func (h *Hub) childrenOf(pattern *Namespace) []*Namespace {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []*Namespace
	for _, n := range h.children {
		if n.pattern == pattern {
			list = append(list, n)
		}
	}
	return list
}

// sweep does what has come due.
func (h *Hub) sweep(now time.Time) {
	h.joinDeadline(now)
	h.sweepExpiry(h.options.Time())
	h.sweepParked(now)
}
