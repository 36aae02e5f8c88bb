package seal

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
)

// ErrStranger says that this process understands none of the others; see [Broker.Err].
var ErrStranger = errors.New("seal: messages of all others are refused")

// Options of New.
type Options struct {
	Keys Keys

	// Time is the wall clock. Nil: time.Now.
	Time func() time.Time

	// Logger gets the ID of the key, and a warning for each reason to refuse messages, once a minute at most.
	// Nil: nothing.
	Logger *slog.Logger
}

// Broker is a [broker.Broker] on another one that trusts nobody without the key.
type Broker struct {
	broker.Broker // the driver

	keys map[keyID]Key // immutable; those that are accepted
	o    Options       // immutable
	out  *sender       // nil: what is sent is plain

	mu      sync.RWMutex
	sources map[name]*source // guarded by mu
	swept   int64            // guarded by mu; milliseconds, when those that are over were forgotten last

	refusals refusals
}

// sender seals what leaves.
type sender struct {
	mode   byte
	name   name
	cipher cipher.AEAD
	sent   atomic.Uint64 // messages so far
}

// New returns a broker on b. It panics if [Keys.Check] has an error.
func New(b broker.Broker, o Options) *Broker {
	if err := o.Keys.Check(); err != nil {
		panic(err)
	}
	if o.Time == nil {
		o.Time = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	out := &Broker{Broker: b, o: o, keys: make(map[keyID]Key), sources: make(map[name]*source)}
	for _, k := range append([]Key{o.Keys.Current}, o.Keys.Accept...) {
		if k != (Key{}) {
			out.keys[k.id()] = k
		}
	}
	if len(out.keys) > 0 && o.Keys.Plain != SendPlain {
		out.out = newSender(o.Keys)
	}
	if out.out != nil {
		o.Logger.Info("messages to other nodes have a key", "key", o.Keys.Current.ID(), "sealed", o.Keys.Seal)
	}
	return out
}

func newSender(k Keys) *sender {
	s := &sender{mode: authenticated}
	if k.Seal {
		s.mode = sealed
	}
	id := k.Current.id()
	copy(s.name[:], id[:])
	rand.Read(s.name[len(id):])
	s.cipher = cipherOf(k.Current, s.name)
	return s
}

// Plain reports whether what is published passes as it is.
func (b *Broker) Plain() bool { return b.out == nil }

// Publish implements [broker.Broker].
func (b *Broker) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if b.out == nil {
		return b.Broker.Publish(ctx, msgs...)
	}
	s := scratches.Get().(*scratch)
	defer s.free()
	b.out.seal(s, msgs, b.now())
	return b.Broker.Publish(ctx, s.msgs...)
}

// seal puts into s what is sent in place of msgs.
func (o *sender) seal(s *scratch, msgs []broker.Message, now int64) {
	s.msgs, s.lent = s.msgs[:0], s.lent[:0]
	h := head{mode: o.mode, name: o.name, at: now}
	h.number = o.sent.Add(uint64(len(msgs))) - uint64(len(msgs))
	for _, m := range msgs {
		if o.mode == sealed {
			m.Trace = nil // a driver would send it open
		}
		if m.Lent {
			start := len(s.lent) // what was lent before stays where it is, even if this moves
			s.lent = s.appendMessage(s.lent, o.cipher, &h, m.Subject, m.Data)
			m.Data = s.lent[start:len(s.lent):len(s.lent)]
		} else {
			m.Data = s.appendMessage(make([]byte, 0, len(m.Data)+Overhead), o.cipher, &h, m.Subject, m.Data)
		}
		s.msgs = append(s.msgs, m)
		h.number++
	}
}

func (b *Broker) now() int64 { return b.o.Time().UnixMilli() }

// Run implements [broker.Broker].
func (b *Broker) Run(ctx context.Context, h broker.Handler) error {
	if deliver := h.Deliver; deliver != nil {
		h.Deliver = func(m broker.Message) { b.take(m, deliver) }
	}
	b.refusals.begin()
	return b.Broker.Run(ctx, h)
}

// take delivers a message, or refuses it.
func (b *Broker) take(m broker.Message, deliver func(broker.Message)) {
	if isPlain(m.Data) {
		if len(b.keys) == 0 || b.o.Keys.Plain != RefusePlain {
			deliver(m)
		} else {
			b.refuse(noKey, head{})
		}
		return
	}
	h, ok := parseHead(m.Data)
	if !ok {
		b.refuse(unreadable, h)
		return
	}
	s := scratches.Get().(*scratch)
	defer s.free()
	body, why := b.open(s, &h, m)
	if why != accepted {
		b.refuse(why, h)
		return
	}
	m.Data = body
	m.Lent = m.Lent || h.mode == sealed
	deliver(m)
}

// open returns the body of a message that may be delivered.
func (b *Broker) open(s *scratch, h *head, m broker.Message) ([]byte, reason) {
	b.mu.RLock()
	from := b.sources[h.name]
	b.mu.RUnlock()
	known := from != nil
	if !known {
		k, ok := b.keys[h.name.key()]
		if !ok {
			return nil, otherKey
		}
		from = &source{cipher: cipherOf(k, h.name)}
	}
	body, ok := s.open(from.cipher, h, m.Subject, m.Data)
	if !ok {
		return nil, forged
	}
	now := b.now()
	if h.at < now-windowMillis || h.at > now+windowMillis {
		return nil, late
	}
	if !known {
		from = b.remember(h.name, from, now)
	}
	if !from.take(h, now) {
		return nil, repeated
	}
	return body, accepted
}

// remember keeps a publisher that has proved that it has the key, and returns the one that is kept.
func (b *Broker) remember(n name, s *source, now int64) *source {
	b.mu.Lock()
	defer b.mu.Unlock()
	if was := b.sources[n]; was != nil {
		return was
	}
	b.sources[n] = s
	if now-b.swept > windowMillis || now < b.swept {
		b.swept = now
		for n, old := range b.sources {
			if old != s && old.over(now) {
				delete(b.sources, n)
			}
		}
	}
	return s
}

func (b *Broker) refuse(why reason, h head) {
	count, tell := b.refusals.add(why)
	if !tell {
		return
	}
	attrs := []any{"why", texts[why].why, "messages", count, "do", texts[why].do}
	switch why {
	case otherKey:
		id := h.name.key()
		attrs = append(attrs, "key", hex.EncodeToString(id[:]), "own", b.ownKey())
	case late:
		attrs = append(attrs, "age", time.Duration(b.now()-h.at)*time.Millisecond)
	}
	b.o.Logger.Warn("messages from the broker are refused", attrs...)
}

func (b *Broker) ownKey() string {
	if b.o.Keys.Current == (Key{}) {
		return "none"
	}
	return b.o.Keys.Current.ID()
}

// Refused is how many messages have been refused.
func (b *Broker) Refused() uint64 { return b.refusals.total.Load() }

// Err says what is wrong if this node has come among others whose messages it refuses: they have another key,
// or another clock, or none has a key but this one, or all but this one. It is nil while they are silent, and
// for a node that had been running for ten seconds when they came: it is not the one to ask. A node that knows
// another one is not a stranger, whatever its Err is.
func (b *Broker) Err() error {
	why, ok := b.refusals.stranger()
	if !ok {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", ErrStranger, texts[why].why, texts[why].do)
}
