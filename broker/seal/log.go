package seal

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"tether/broker"
)

// Log implements [broker.Logger], if the driver does: what is kept is what was published, and records are sealed as
// messages are. What cannot be opened may be anything, so then the log does not reach back.
func (b *Broker) Log() (broker.Log, error) {
	l, ok := b.Broker.(broker.Logger)
	if !ok {
		return nil, fmt.Errorf("%w: this driver has none; broker/redis, broker/nats and broker/memory have", broker.ErrNoLog)
	}
	kept, err := l.Log()
	if err != nil {
		return nil, err
	}
	return log{kept, b}, nil
}

type log struct {
	broker.Log
	b *Broker
}

func (l log) Read(ctx context.Context, parts []broker.Part) ([]broker.Message, uint64, error) {
	msgs, head, err := l.Log.Read(ctx, parts)
	if err != nil {
		return nil, 0, err
	}
	for i := range msgs {
		body, ok := l.b.openKept(msgs[i].Subject, msgs[i].Data, l.Age())
		if !ok {
			return nil, 0, broker.ErrForgotten
		}
		msgs[i].Data = body
	}
	return msgs, head, nil
}

func (l log) Load(ctx context.Context, key string) (broker.Record, error) {
	r, err := l.Log.Load(ctx, key)
	if err != nil || r.Owner == "" {
		return broker.Record{}, err
	}
	body, ok := l.b.openKept(subjectOf(key, &r), r.Value, l.Age())
	if !ok {
		return broker.Record{}, nil
	}
	r.Value = body
	return r, nil
}

func (l log) Save(ctx context.Context, key, was string, r broker.Record) (bool, error) {
	if l.b.out != nil {
		s := scratches.Get().(*scratch)
		defer s.free()
		l.b.out.seal(s, []broker.Message{{Subject: subjectOf(key, &r), Data: r.Value}}, l.b.now())
		r.Value = s.msgs[0].Data
	}
	return l.Log.Save(ctx, key, was, r)
}

// subjectOf is what a record is bound to.
func subjectOf(key string, r *broker.Record) string {
	return "record " + key + " " + r.Owner + " " + strconv.FormatUint(r.Version, 10)
}

// openKept opens what was sealed no longer ago than age, however often.
func (b *Broker) openKept(subject string, data []byte, age time.Duration) ([]byte, bool) {
	if isPlain(data) {
		return data, len(b.keys) == 0 || b.o.Keys.Plain != RefusePlain
	}
	h, ok := parseHead(data)
	if !ok {
		return nil, false
	}
	k, ok := b.keys[h.name.key()]
	if !ok {
		return nil, false
	}
	if now := b.now(); h.at < now-windowMillis-age.Milliseconds() || h.at > now+windowMillis {
		return nil, false
	}
	var s scratch
	return s.open(cipherOf(k, h.name), &h, subject, data)
}
