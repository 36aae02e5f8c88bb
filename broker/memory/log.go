package memory

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"tether/broker"
)

// log implements [broker.Log] for all peers of a bus.
type log struct {
	o    broker.LogOptions // immutable
	turn chan struct{}     // capacity 1; whose it is carries a message

	mu      sync.Mutex
	last    uint64                // guarded by mu; the place given last
	swept   time.Time             // guarded by mu; when what is old was forgotten everywhere
	logs    map[string]*kept      // guarded by mu
	records map[string]keptRecord // guarded by mu
}

// kept is one log.
type kept struct {
	msgs    []broker.Message
	bytes   int
	dropped uint64 // place of the last one that was dropped
}

// keptRecord is a record.
type keptRecord struct {
	broker.Record
	at time.Time
}

func newLog(o broker.LogOptions) *log {
	return &log{
		o: o, turn: make(chan struct{}, 1), swept: time.Now(),
		logs: make(map[string]*kept), records: make(map[string]keptRecord),
	}
}

func (l *log) Age() time.Duration { return l.o.Age }

// add adds a message that asks for it, and returns its place.
func (l *log) add(m broker.Message) uint64 {
	if m.Place == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.last = max(l.last+1, uint64(now.UnixMicro()))
	if m.Log != "" {
		k := l.logs[m.Log]
		if k == nil {
			k = new(kept)
			l.logs[m.Log] = k
		}
		m = m.Own()
		m.Place = l.last
		k.msgs = append(k.msgs, m)
		k.bytes += len(m.Data)
		l.trimLocked(k, now)
	}
	if now.Sub(l.swept) > l.o.Age {
		l.sweepLocked(now)
	}
	return l.last
}

// trimLocked drops what is too much, and what is too old.
func (l *log) trimLocked(k *kept, now time.Time) {
	oldest, n := uint64(now.Add(-l.o.Age).UnixMicro()), 0
	for ; n < len(k.msgs) && (len(k.msgs)-n > l.o.Length || k.bytes > l.o.Bytes || k.msgs[n].Place < oldest); n++ {
		k.bytes -= len(k.msgs[n].Data)
		k.dropped = k.msgs[n].Place
	}
	k.msgs = slices.Delete(k.msgs, 0, n)
}

func (l *log) sweepLocked(now time.Time) {
	l.swept = now
	for name, k := range l.logs {
		if l.trimLocked(k, now); len(k.msgs) == 0 {
			delete(l.logs, name) // a Read of what was older is refused anyway
		}
	}
	for key, r := range l.records {
		if now.Sub(r.at) > l.o.Age {
			delete(l.records, key)
		}
	}
}

func (l *log) Head(ctx context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = max(l.last, uint64(time.Now().UnixMicro()))
	return l.last, ctx.Err()
}

func (l *log) Read(ctx context.Context, parts []broker.Part) (msgs []broker.Message, head uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := uint64(time.Now().Add(-l.o.Age).UnixMicro())
	for _, p := range parts {
		k := l.logs[p.Log]
		if p.After < oldest || p.After > l.last || k != nil && k.dropped > p.After {
			return nil, 0, broker.ErrForgotten
		}
		if k == nil {
			continue
		}
		from, _ := slices.BinarySearchFunc(k.msgs, p.After+1, func(m broker.Message, at uint64) int { return cmp.Compare(m.Place, at) })
		msgs = append(msgs, k.msgs[from:]...)
	}
	slices.SortFunc(msgs, func(a, b broker.Message) int { return cmp.Compare(a.Place, b.Place) })
	return msgs, l.last, ctx.Err()
}

func (l *log) Load(ctx context.Context, key string) (broker.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[key]
	if time.Since(r.at) > l.o.Age {
		return broker.Record{}, ctx.Err()
	}
	return r.Record, ctx.Err()
}

func (l *log) Save(ctx context.Context, key, was string, r broker.Record) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, there := l.records[key]
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case there && o.Owner == r.Owner && o.Version >= r.Version:
		return true, nil
	case there && o.Owner != r.Owner && o.Owner != was, !there && was != "":
		return false, nil
	}
	l.records[key] = keptRecord{r, time.Now()}
	return true, nil
}

func (l *log) Drop(ctx context.Context, key, owner string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.records[key].Owner == owner {
		delete(l.records, key)
	}
	return ctx.Err()
}
