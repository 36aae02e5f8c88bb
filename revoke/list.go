package revoke

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"tether/cluster"
	"tether/hub"
)

// Options of a List. A field that is zero has its default.
type Options struct {
	// Lifetime is how long a rule is remembered: as long as a token may be good. Default 24 h.
	Lifetime time.Duration

	// Max is how many rules are remembered, about 150 bytes each. Default 100,000.
	Max int

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// List is one node's part: the rules, and which socket was let in with what.
type List struct {
	hub  *hub.Hub
	node *cluster.Node
	log  *slog.Logger

	known chan struct{} // closed when this node knows the rules of the others

	unreadable map[string]string // the nodes whose rules cannot be read, by tag: their names; of the goroutine of Run

	mu      sync.Mutex
	rules   rules                // guarded by mu
	past    []uint64             // guarded by mu; digests of the rules, the last one last
	sockets map[*hub.Socket]held // guarded by mu; those that are gone, too, until they are swept
	swept   int                  // guarded by mu; sockets that were left by the last sweep
}

// errUnknown is why nobody is let in.
var errUnknown = errors.New("revoke: the rules of other nodes are not known yet; they are asked for while Run of the hub runs")

// held is the token of a socket.
type held struct {
	user, id string
	issued   int64 // in nanoseconds since 1970; 0: not known
	also     *held // of the same socket
}

func heldOf(t Token) held {
	h := held{id: t.ID}
	if t.User != (hub.Target{}) {
		h.user = t.User.String()
	}
	if !t.Issued.IsZero() {
		h.issued = t.Issued.UnixNano()
	}
	return h
}

// New returns the list of h. It is called before Run of h, which runs it too, and on all nodes of a cluster.
func New(h *hub.Hub, o Options) (*List, error) {
	switch {
	case o.Lifetime < 0 || o.Max < 0:
		return nil, errors.New("revoke: Options.Lifetime and Options.Max are not negative")
	case o.Lifetime == 0:
		o.Lifetime = 24 * time.Hour
	}
	if o.Max == 0 {
		o.Max = 100_000
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	l := &List{
		hub:     h,
		node:    h.Emitter().Cluster(),
		log:     o.Logger.With("node", h.Node()),
		known:   make(chan struct{}),
		rules:   rules{lifetime: o.Lifetime, limit: o.Max, all: make(map[ruleKey]rule)},
		sockets: make(map[*hub.Socket]held),

		unreadable: make(map[string]string),
	}
	l.node.Handle(topicRevoke, l.answerRevoke)
	l.node.Handle(topicRules, l.answerRules)
	l.node.Attach(l)
	return l, nil
}

// Register lets a socket in with a token, or returns ErrRevoked, and registers it for the token's user, if there
// is one: see [hub.Socket.RegisterAs]. It is called in a connect hook, for every socket that a rule may be about,
// and waits until this node knows the rules of the others. A socket may have several tokens; it ends with the first
// of them.
func (l *List) Register(ctx context.Context, s *hub.Socket, t Token) error {
	select {
	case <-l.known:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errUnknown, ctx.Err())
	}
	h := heldOf(t)
	if !l.admit(s, h) {
		return ErrRevoked
	}
	if h.user == "" {
		return nil
	}
	return s.RegisterAs(ctx, t.User)
}

// Refresh has a socket that Register has let in go on with a new token of the same user's: from now on rules are
// about that one. The error is ErrRevoked, and then nothing has changed. See package refresh.
func (l *List) Refresh(s *hub.Socket, t Token) error {
	h := heldOf(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules.match(&h) {
		return ErrRevoked
	}
	if before, ok := l.sockets[s]; ok {
		h.also = before.without(h.user)
	}
	l.sockets[s] = h
	return nil
}

// without are the tokens of other users.
func (h held) without(user string) *held {
	if h.also != nil {
		h.also = h.also.without(user)
	}
	if h.user == user {
		return h.also
	}
	return &h
}

// admit notes a socket down, and looks for a rule in the same moment: a rule that comes later finds the socket.
func (l *List) admit(s *hub.Socket, h held) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rules.match(&h) {
		return false
	}
	if len(l.sockets) >= 2*l.swept+64 {
		l.sweepLocked()
	}
	if before, ok := l.sockets[s]; ok {
		h.also = &before
	}
	l.sockets[s] = h
	return true
}

// sweepLocked forgets the sockets that are gone. Each costs one look.
func (l *List) sweepLocked() {
	for s := range l.sockets {
		if gone(s) {
			delete(l.sockets, s)
		}
	}
	l.swept = len(l.sockets)
}

// over is a context that is done.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// gone reports whether a socket has ended. One that is still connecting has not.
func gone(s *hub.Socket) bool { return errors.Is(s.Wait(over), hub.ErrDisconnected) }

// take puts rules into force on this node, and says how many sockets that has ended.
func (l *List) take(list ...rule) (ended int, err error) {
	var out []*hub.Socket
	l.mu.Lock()
	now := time.Now()
	for _, r := range list {
		fresh, failed := l.rules.add(r, now)
		if failed != nil {
			err = failed
		}
		if !fresh {
			continue
		}
		for s, h := range l.sockets {
			if r.about(&h) {
				out = append(out, s)
				delete(l.sockets, s)
			}
		}
	}
	l.digestLocked()
	l.mu.Unlock()
	for _, s := range out {
		if !gone(s) {
			ended++
		}
		s.Disconnect(true) // one whose client may come back is gone, and does not come back
	}
	if err != nil {
		l.log.Error("a revocation is not remembered", "error", err)
	}
	return ended, err
}
