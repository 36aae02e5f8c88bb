// Package limit bounds how many events a user sends in a second, over all devices, on all nodes.
//
//	events, err := limit.New(h, limit.Options{Rate: 20})
//	h.Of("/").UseEvent(events.Handle)
//
// It is made before Run of the hub, which runs it too, on all nodes.
//
// # How exact it is
//
// On one node it is exact: in T seconds no more than Burst and Rate times T. A node tells the others once in each
// Interval how much its busy users have sent, and they count it as theirs. So a user on k nodes sends no more than
//
//	Burst + Rate*T + (k-1) * (Burst + 2*Rate*Interval)
//
// as each further node may let through a burst before it hears of the others; in the long run it is Rate. This does not
// hold in four cases. Users who send less than an eighth of Rate through a node are not told about: they may have up to an
// eighth of Rate more for each further node. A node that is cut off from the others counts alone meanwhile. A node
// that cannot be reached within one Interval is not told later. And one message tells about some 3,000 users: if more are
// busy, the others hear of some of them one or more intervals later.
//
// While nobody is busy nothing is sent. Otherwise it is a message a second from each node with busy users to all others.
package limit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"tether/cluster"
	"tether/hub"
)

// Options of a Limiter. Rate is needed; any other field that is zero has its default.
type Options struct {
	// Rate is how many events a user may send in a second.
	Rate float64

	// Burst is how many of them may come at once. Default twice Rate, and at least 1.
	Burst int

	// Interval is how often nodes tell each other. Default 1 s.
	Interval time.Duration

	// Event is emitted to a socket that wants no acknowledgement, at most once a second for each user, with the
	// object that Handle describes. "": such a client is not told.
	Event string
}

// Limiter is one node's part.
type Limiter struct {
	o       Options // immutable, with defaults
	node    *cluster.Node
	refused atomic.Uint64

	mu    sync.Mutex
	users map[hub.Target]*bucket // guarded by mu; those that have sent something lately
	keys  map[userKey]*bucket    // guarded by mu; the same
}

// userKey is how nodes name a user to each other.
type userKey [8]byte

// bucket is what a user may still send. The fields are guarded by the Limiter's mu.
type bucket struct {
	user  hub.Target
	key   userKey
	level float64 // events
	at    time.Time
	spent int       // on this node, that others have not been told of
	told  time.Time // when the user was told last
}

// topicSpent is the topic of what nodes tell each other.
const topicSpent byte = 72

const (
	tellBytes = 32 << 10 // of users in one message
	busyPart  = 8        // a user is busy from this part of the rate on
)

// New returns the limiter of a hub.
func New(h *hub.Hub, o Options) (*Limiter, error) {
	switch {
	case !(o.Rate > 0) || math.IsInf(o.Rate, 0):
		return nil, errors.New("limit: Options.Rate is how many events a user may send in a second, and more than 0")
	case o.Burst < 0 || o.Interval < 0:
		return nil, errors.New("limit: Options.Burst and Options.Interval are not negative")
	}
	if o.Burst == 0 {
		o.Burst = max(1, int(2*o.Rate))
	}
	if o.Interval == 0 {
		o.Interval = time.Second
	}
	l := &Limiter{
		o: o, node: h.Emitter().Cluster(),
		users: make(map[hub.Target]*bucket), keys: make(map[userKey]*bucket),
	}
	l.node.Handle(topicSpent, l.hear)
	l.node.Attach(l)
	return l, nil
}

// Refused is how many events were refused so far.
func (l *Limiter) Refused() uint64 { return l.refused.Load() }

// Handle is for [hub.Namespace.UseEvent]. It refuses an event that is too many: a client that waits for an
// acknowledgement gets null and {"message":"too many events","data":{"retryAfter":0.4}}, in seconds, as of every
// refusal. A socket that is registered for no user has no limit here; see transport.Options.MessageRate.
func (l *Limiter) Handle(_ context.Context, s *hub.Socket, m *hub.Message) error {
	wait, tell := time.Duration(0), false
	for _, u := range s.Users() {
		w, t := l.take(u, time.Now())
		wait, tell = max(wait, w), tell || t
	}
	if wait == 0 {
		return nil
	}
	l.refused.Add(1)
	data := struct {
		RetryAfter float64 `json:"retryAfter"` // seconds
	}{math.Ceil(wait.Seconds()*1000) / 1000}
	if tell && l.o.Event != "" && !m.WantsAck() {
		if err := s.Emit(l.o.Event, map[string]any{"message": tooMany, "data": data}); err != nil {
			return err
		}
	}
	return hub.Refuse(tooMany, data)
}

const tooMany = "too many events"

// take counts an event. If it is too many, it says how long to wait, and whether it is time to tell the user.
func (l *Limiter) take(u hub.Target, now time.Time) (wait time.Duration, tell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.users[u]
	if b == nil {
		sum := sha256.Sum256([]byte(u.String()))
		b = &bucket{user: u, level: float64(l.o.Burst), at: now}
		copy(b.key[:], sum[:])
		l.users[u], l.keys[b.key] = b, b
	}
	l.fill(b, now)
	if b.level >= 1 {
		b.level--
		b.spent++
		return 0, false
	}
	if tell = now.Sub(b.told) >= time.Second; tell {
		b.told = now
	}
	return max(1, time.Duration((1-b.level)/l.o.Rate*float64(time.Second))), tell // 0 would say that it is not too many
}

func (l *Limiter) fill(b *bucket, now time.Time) {
	b.level = min(float64(l.o.Burst), b.level+now.Sub(b.at).Seconds()*l.o.Rate)
	b.at = now
}

// Run implements [cluster.Service]: the hub calls it. It tells the other nodes what busy users have sent.
func (l *Limiter) Run(ctx context.Context) {
	ticker := time.NewTicker(l.o.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			if body := l.busy(now); len(body) > 0 {
				l.tell(ctx, body)
			}
		}
	}
}

// busy forgets users that have been quiet, and returns what the others are told: for each user a key and a number.
func (l *Limiter) busy(now time.Time) (body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	least := l.o.Rate * l.o.Interval.Seconds() / busyPart
	for u, b := range l.users {
		l.fill(b, now)
		switch {
		case b.spent > 0 && float64(b.spent) > least:
			if len(body) > tellBytes {
				continue // next time
			}
			body = binary.AppendUvarint(append(body, b.key[:]...), uint64(b.spent))
			b.spent = 0
		case b.level >= float64(l.o.Burst):
			delete(l.users, u)
			delete(l.keys, b.key)
		}
	}
	return body
}

// tell tells all others. Nobody waits long for one that does not hear.
func (l *Limiter) tell(ctx context.Context, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, l.o.Interval)
	defer cancel()
	asking := l.node.Ask(ctx, cluster.Question{Topic: topicSpent, Body: body, Others: true, Once: true})
	for range asking.Pages { // there are none
	}
}

// hear counts what users have sent to another node.
func (l *Limiter) hear(_ context.Context, r *cluster.Request) error {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for body := r.Body; len(body) > 0; {
		if len(body) < len(userKey{}) {
			return errShort
		}
		b := l.keys[userKey(body)]
		spent, n := binary.Uvarint(body[len(userKey{}):])
		if n <= 0 {
			return errShort
		}
		body = body[len(userKey{})+n:]
		if b != nil {
			l.fill(b, now)
			b.level -= float64(spent)
		}
	}
	return nil
}

var errShort = errors.New("limit: the message ends too early")
