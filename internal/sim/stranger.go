package sim

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"tether/broker"
	"tether/broker/seal"
	"tether/hub"
	"tether/internal/ledger"
)

// furnishKeys chooses, for a run with keys, two that all accept, as while they change.
func (w *world) furnishKeys() {
	if w.chance(4) {
		rng := w.fork()
		w.keys = make([]seal.Key, 2)
		for i := range w.keys {
			for j := range w.keys[i] {
				w.keys[i][j] = byte(rng.Uint32())
			}
		}
	}
}

// keysOf are those of one more node or worker.
func (w *world) keysOf() seal.Keys {
	if w.keys == nil {
		return seal.Keys{}
	}
	i := w.rng.IntN(2)
	return seal.Keys{Current: w.keys[i], Accept: []seal.Key{w.keys[1-i]}, Seal: w.chance(2)}
}

// stranger is a broker at which somebody without the key repeats what a node has got, at once and when it is
// old, changes it, hands it over on another subject, and makes things up. The node must take none of it.
type stranger struct {
	broker.Broker
	forged []byte // an event that nobody with a key has sent
	begins time.Time

	elsewhere *rumour // what was heard last, at whatever node

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
	old []heard    // guarded by mu; the oldest first
}

// rumour is what strangers tell each other: a message that one node got, perhaps alone.
type rumour struct {
	mu   sync.Mutex
	last broker.Message // guarded by mu
}

// swap leaves a message, and returns the one that was left before.
func (r *rumour) swap(m broker.Message) broker.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.last
	r.last = m
	return was
}

type heard struct {
	broker.Message
	at time.Time
}

// strangerRest is until when a node may think that it has come among strangers, and is not ready.
const strangerRest = 11 * time.Second

const maxOld = 8 // messages that a stranger remembers

func newStranger(b broker.Broker, elsewhere *rumour, rng *rand.Rand) *stranger {
	s := &stranger{Broker: b, elsewhere: elsewhere, rng: rng, begins: time.Now().Add(strangerRest)}
	e := hub.NewEmitter(&recorder{into: &s.forged}, hub.EmitterOptions{})
	if _, err := e.Emit(context.Background(), hub.Everyone, "n", ledger.Mark{}); err != nil {
		panic(err) // the recorder takes everything
	}
	return s
}

// recorder is a broker that keeps what was published last.
type recorder struct {
	broker.Broker
	into *[]byte
}

func (r *recorder) Publish(_ context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	*r.into = bytes.Clone(msgs[0].Data)
	return make([]broker.Receipt, len(msgs)), nil
}

func (s *stranger) Run(ctx context.Context, h broker.Handler) error {
	deliver := h.Deliver
	h.Deliver = func(m broker.Message) {
		kept := m.Own()
		deliver(m)
		if again, ok := s.mischief(kept); ok {
			deliver(again)
		}
	}
	return s.Broker.Run(ctx, h)
}

// mischief remembers a message, and chooses what is done behind it.
func (s *stranger) mischief(m broker.Message) (broker.Message, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.old) < maxOld && s.rng.IntN(8) == 0 {
		s.old = append(s.old, heard{m, now})
	}
	other := s.elsewhere.swap(m)
	if now.Before(s.begins) {
		return m, false
	}
	switch s.rng.IntN(8) {
	case 0:
		return m, true
	case 1:
		return broker.Message{Subject: m.Subject, Data: other.Data}, other.Subject != m.Subject && other.Subject != ""
	case 2:
		m.Data = bytes.Clone(m.Data)
		m.Data[s.rng.IntN(len(m.Data))] ^= 1 << s.rng.IntN(8)
		return m, true
	case 3:
		return broker.Message{Subject: m.Subject, Data: s.forged}, true
	case 4:
		if len(s.old) == 0 || now.Sub(s.old[0].at) < seal.Window+clockSpread {
			return m, false
		}
		m, s.old = s.old[0].Message, s.old[1:]
		return m, true
	}
	return m, false
}

// clockSpread is how far the clocks of nodes with a key are apart.
const clockSpread = 40 * time.Second
