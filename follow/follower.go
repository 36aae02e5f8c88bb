package follow

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tether/engine"
	"tether/hub"
)

// Options of a Follower. The zero value of each but Keys is its default.
type Options struct {
	// Keys are those of the operators. The first one signs, all are good. New returns an error without.
	Keys []string

	// Node names this process where it emits, until Serve names it after its hub. Default "this process".
	Node string

	// Every has one in so many emits followed, by target. Default 0: none.
	Every int

	// Events is how many events are remembered, the latest, and how many of clients. Default 256.
	Events int

	// Keep is for how long. Default five minutes.
	Keep time.Duration

	// Clients is of how many clients each event is remembered, on a node. Others are counted. Default 64.
	Clients int
}

const (
	maxRules   = 64
	maxRule    = time.Hour
	maxContext = 20 // emits of one Context that are followed
)

// ID names an event that is followed.
type ID [8]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(id) {
		return fmt.Errorf("follow: %.32q is no ID of an event: 16 hexadecimal digits are right", text)
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// Follower follows events, and remembers what became of them in this process. It is a [hub.Tracer].
type Follower struct {
	o      Options
	keys   atomic.Pointer[[][]byte] // not empty
	node   atomic.Pointer[string]
	asked  atomic.Uint64 // targets, for Every
	rules  atomic.Pointer[map[string]time.Time]
	change sync.Mutex // of rules
	memory memory     // of emits, and what became of them
	heard  memory     // of what clients have sent: many of it drive out no emit
}

// New returns a Follower. It is given to hub.Options.Tracers, or to those of an emitter.
func New(o Options) (*Follower, error) {
	if o.Every < 0 || o.Events < 0 || o.Keep < 0 || o.Clients < 0 {
		return nil, errors.New("follow: options: Every, Events, Keep and Clients cannot be negative; 0 is the default")
	}
	o.Node = cmp.Or(o.Node, "this process")
	o.Events = cmp.Or(o.Events, 256)
	o.Keep = cmp.Or(o.Keep, 5*time.Minute)
	o.Clients = cmp.Or(o.Clients, 64)
	f := &Follower{o: o, memory: memory{events: o.Events, keep: o.Keep}, heard: memory{events: o.Events, keep: o.Keep}}
	f.node.Store(&o.Node)
	f.rules.Store(&map[string]time.Time{})
	return f, f.SetKeys(o.Keys)
}

// SetKeys replaces the keys.
func (f *Follower) SetKeys(texts []string) error {
	if len(texts) == 0 || slices.Contains(texts, "") {
		return errKey
	}
	keys := make([][]byte, len(texts))
	for i, text := range texts {
		keys[i] = keyOf(text)
	}
	f.keys.Store(&keys)
	return nil
}

// ids are those of the emits of a Context.
type ids struct {
	mu  sync.Mutex
	all []ID
}

type idsKey struct{}

// Context returns a context whose emits are followed, up to 20, and a function that returns their IDs in the order
// of the calls; never nil.
func Context(ctx context.Context) (context.Context, func() []ID) {
	list := new(ids)
	return context.WithValue(ctx, idsKey{}, list), func() []ID {
		list.mu.Lock()
		defer list.mu.Unlock()
		return append([]ID{}, list.all...)
	}
}

// add reports false if there are enough.
func (l *ids) add(id ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == maxContext {
		return false
	}
	l.all = append(l.all, id)
	return true
}

// Name implements [hub.Tracer].
func (f *Follower) Name() string { return "follow" }

// Sampled implements [hub.Tracer].
func (f *Follower) Sampled(ctx context.Context, _ string, to hub.Target, _ string) bool {
	if n := f.o.Every; n > 0 && f.asked.Add(1)%uint64(n) == 0 {
		return true
	}
	if rules := *f.rules.Load(); len(rules) > 0 {
		if until, ok := rules[to.String()]; ok && time.Now().Before(until) {
			return true
		}
	}
	return ctx.Value(idsKey{}) != nil
}

// Emit implements [hub.Tracer].
func (f *Follower) Emit(ctx context.Context, namespace string, to []hub.Target, event string) ([]byte, func([]hub.Receipt, error)) {
	var id ID
	rand.Read(id[:])
	if list, ok := ctx.Value(idsKey{}).(*ids); ok && !list.add(id) {
		return nil, nil
	}
	e := &emit{node: *f.node.Load(), name: event, namespace: namespace, to: to, at: time.Now()}
	f.memory.emitted(id, e)
	return append(id[:], sign((*f.keys.Load())[0], signsMark, id[:])...), e.done
}

// Arrived implements [hub.Tracer].
func (f *Follower) Arrived(mark []byte, namespace, event string) engine.Watcher {
	if len(mark) != len(ID{})+macSize {
		return nil
	}
	id := ID(mark)
	if !f.good(signsMark, id[:], mark[len(id):]) {
		return nil
	}
	a := &arrival{node: *f.node.Load(), max: f.o.Clients, name: event, namespace: namespace, taken: time.Now(), sockets: unrouted}
	f.memory.arrived(id, a)
	return a
}

// Handle implements [hub.Tracer]: what a client sends is remembered while it is among the sockets of a rule's target.
func (f *Follower) Handle(ctx context.Context, s *hub.Socket, m *hub.Message, _ bool) (context.Context, func(error)) {
	rules := *f.rules.Load()
	if len(rules) == 0 {
		return ctx, nil
	}
	r := &received{node: *f.node.Load(), name: m.Event(), namespace: s.Namespace().Name(), socket: s.ID(), at: time.Now()}
	for _, to := range append(s.Rooms(), hub.Everyone) {
		if until, ok := rules[to.String()]; ok && r.at.Before(until) {
			r.of = append(r.of, to.String())
		}
	}
	if len(r.of) > 0 {
		var id ID
		rand.Read(id[:])
		f.heard.received(id, r)
	}
	return ctx, nil
}

// find is what this process knows.
func (f *Follower) find(q question) []Event { return append(f.memory.find(q), f.heard.find(q)...) }

// rule has what this process emits to a target followed for a while.
func (f *Follower) rule(to string, d time.Duration) error {
	f.change.Lock()
	defer f.change.Unlock()
	now := time.Now()
	rules := maps.Clone(*f.rules.Load())
	maps.DeleteFunc(rules, func(_ string, until time.Time) bool { return now.After(until) })
	if _, ok := rules[to]; !ok && len(rules) >= maxRules {
		return fmt.Errorf("follow: %d targets are followed already; wait until that of one is over", maxRules)
	}
	if rules[to] = now.Add(d); d == 0 {
		delete(rules, to)
	}
	f.rules.Store(&rules)
	return nil
}
