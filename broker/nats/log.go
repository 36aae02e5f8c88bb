package nats

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"tether/broker"
)

// Log implements [broker.Logger].
func (b *Broker) Log() (broker.Log, error) {
	if b.kept == nil {
		return nil, broker.ErrNoLog
	}
	return log{b, b.kept}, nil
}

// log implements [broker.Log].
type log struct {
	b *Broker
	k *keeping
}

func (l log) Age() time.Duration { return l.k.Age }

// state returns the generation and what the stream has.
func (l log) state(ctx context.Context) (*generation, *jetstream.StreamState, error) {
	e := l.b.link.current()
	g, err := l.k.await(ctx, e, l.b.closed)
	if err != nil {
		return nil, nil, err
	}
	state, err := l.stateIn(ctx, e, g)
	return g, state, err
}

// stateIn fails if the generation is over.
func (l log) stateIn(ctx context.Context, e epoch, g *generation) (*jetstream.StreamState, error) {
	info := new(jetstream.StreamInfo)
	if err := l.k.api(ctx, "STREAM.INFO."+l.k.events, nil, info); err != nil {
		return nil, l.failed(err)
	}
	if !l.b.link.is(e) || !info.Created.Equal(g.Created) {
		l.k.doubt()
		return nil, unavailable("log", errGeneration)
	}
	return &info.State, nil
}

// failed is the error for what the server has refused.
func (l log) failed(err error) error {
	if refused := new(jetstream.APIError); errors.As(err, &refused) {
		l.k.doubt()
		return unavailable("log", err)
	}
	return err
}

func (l log) Head(ctx context.Context) (uint64, error) {
	g, state, err := l.state(ctx)
	if err != nil {
		return 0, err
	}
	return g.place(state.LastSeq), nil
}

func (l log) Read(ctx context.Context, parts []broker.Part) (msgs []broker.Message, head uint64, err error) {
	e := l.b.link.current()
	g, state, err := l.state(ctx)
	if err != nil {
		return nil, 0, err
	}
	head = g.place(state.LastSeq)
	oldest := state.LastSeq
	for _, p := range parts {
		if p.After < g.Base || p.After > head {
			return nil, 0, broker.ErrForgotten
		}
		oldest = min(oldest, g.sequence(p.After))
		if msgs, err = l.read(ctx, msgs, p, g, state.LastSeq); err != nil {
			return nil, 0, err
		}
	}
	// What was there until now can have been read.
	if state, err = l.stateIn(ctx, e, g); err != nil {
		return nil, 0, err
	}
	if state.FirstSeq > oldest+1 {
		return nil, 0, broker.ErrForgotten
	}
	slices.SortFunc(msgs, func(a, b broker.Message) int { return cmp.Compare(a.Place, b.Place) })
	return msgs, head, nil
}

const (
	readBatch = 512     // messages that are asked for at once
	readBytes = 4 << 20 // of them, about
)

// read appends one log from a place on, up to a sequence.
func (l log) read(ctx context.Context, msgs []broker.Message, p broker.Part, g *generation, last uint64) ([]broker.Message, error) {
	answers := make(chan *natsio.Msg, readBatch+2)
	inbox := l.k.conn.NewInbox()
	sub, err := l.k.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, unavailable("log", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	perSubject := make(map[string]int)
	next := g.sequence(p.After) + 1
	for more := next <= last; more; {
		question, err := json.Marshal(map[string]any{
			"seq": next, "next_by_subj": l.k.prefix + "l." + token(p.Log) + ".>", "batch": readBatch, "max_bytes": readBytes,
		})
		if err != nil {
			return nil, err
		}
		if err := l.k.conn.PublishRequest("$JS.API.DIRECT.GET."+l.k.events, inbox, question); err != nil {
			return nil, unavailable("log", err)
		}
		var some []*natsio.Msg
		if some, more, err = l.readSome(ctx, answers); err != nil {
			return nil, err
		}
		for _, got := range some {
			m, sequence, err := l.message(got, g)
			if err != nil {
				return nil, err
			}
			next = sequence + 1
			if perSubject[m.Subject]++; perSubject[m.Subject] > l.k.Length {
				return nil, broker.ErrForgotten // the stream keeps one more, and may have dropped what was before that
			}
			if sequence <= last { // later ones are counted: for them others may have been dropped
				m.Log = p.Log
				msgs = append(msgs, m)
			}
		}
	}
	return msgs, nil
}

// readSome reads the answers to one question.
func (l log) readSome(ctx context.Context, answers <-chan *natsio.Msg) (some []*natsio.Msg, more bool, err error) {
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	for {
		select {
		case m := <-answers:
			switch status := m.Header.Get("Status"); status {
			case "":
				some = append(some, m)
				limit.Reset(timeout)
				continue
			case "204":
				if more = m.Header.Get("Nats-Num-Pending") != "0"; more && len(some) == 0 {
					return nil, false, unavailable("log", errors.New("the server sends nothing of what there is"))
				}
				return some, more, nil
			case "404":
				return some, false, nil
			default:
				l.k.doubt()
				return nil, false, unavailable("log", fmt.Errorf("the server answers %s %s", status, m.Header.Get("Description")))
			}
		case <-limit.C:
			return nil, false, unavailable("log", errSilent)
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-l.b.closed:
			return nil, false, broker.ErrClosed
		}
	}
}

// message takes apart what the stream has kept.
func (l log) message(got *natsio.Msg, g *generation) (m broker.Message, sequence uint64, err error) {
	sequence, err = strconv.ParseUint(got.Header.Get(headerSequence), 10, 64)
	base, _, data, ok := cutFront(got.Data)
	room := l.k.room(got.Header.Get(headerSubject))
	if err != nil || !ok || room == "" {
		return m, 0, unavailable("log", errUnnamed)
	}
	if base != g.Base { // it was published before the generation began, and nodes have not taken it
		return m, 0, broker.ErrForgotten
	}
	m = broker.Message{Data: data, Place: g.place(sequence)}
	if l.b.names.isHash(room) {
		subject, rest, err := splitNamed(data)
		if err != nil {
			return m, 0, unavailable("log", err)
		}
		m.Subject, m.Data = string(subject), rest
		return m, sequence, nil
	}
	m.Subject = subjectOf(strings.TrimPrefix(room, l.b.names.short))
	return m, sequence, nil
}

// A record is its version, its owner and its value.
func appendRecord(dst []byte, r broker.Record) []byte {
	dst = binary.AppendUvarint(dst, r.Version)
	return append(append(binary.AppendUvarint(dst, uint64(len(r.Owner))), r.Owner...), r.Value...)
}

// record returns a record, and its sequence; 0: it is not there.
func (l log) record(ctx context.Context, key string) (r broker.Record, sequence uint64, err error) {
	if _, err := l.k.await(ctx, l.b.link.current(), l.b.closed); err != nil {
		return r, 0, err
	}
	data, sequence, err := l.k.last(ctx, l.recordSubject(key))
	if err != nil || sequence == 0 {
		return r, 0, l.failed(err)
	}
	version, n := binary.Uvarint(data)
	if n <= 0 {
		return r, 0, unavailable("log", errUnnamed)
	}
	owner, value, err := splitNamed(data[n:])
	if err != nil {
		return r, 0, unavailable("log", err)
	}
	return broker.Record{Owner: string(owner), Version: version, Value: value}, sequence, nil
}

func (l log) recordSubject(key string) string { return l.k.prefix + "k." + token(key) }

func (l log) Load(ctx context.Context, key string) (broker.Record, error) {
	r, _, err := l.record(ctx, key)
	return r, err
}

func (l log) Save(ctx context.Context, key, was string, r broker.Record) (bool, error) {
	for range maxTries {
		o, at, err := l.record(ctx, key)
		switch {
		case err != nil:
			return false, err
		case at != 0 && o.Owner == r.Owner && o.Version >= r.Version:
			return true, nil
		case at != 0 && o.Owner != r.Owner && o.Owner != was, at == 0 && was != "":
			return false, nil
		}
		err = l.k.put(ctx, l.recordSubject(key), appendRecord(nil, r), at, l.k.Age)
		if isCode(err, notStored) {
			return false, unavailable("log", fmt.Errorf("the stream %s, which log_records in the URL bounds, takes no record: %w", l.k.records, err))
		}
		if !isCode(err, jetstream.JSErrCodeStreamWrongLastSequence) {
			return err == nil, l.failed(err)
		}
	}
	return false, unavailable("log", errBusy)
}

// notStored is the server's code for a message that a stream has no place for, or whose disk fails.
const notStored jetstream.ErrorCode = 10077

var errBusy = errors.New("others change the record all the time")

func (l log) Drop(ctx context.Context, key, owner string) error {
	for range maxTries {
		o, at, err := l.record(ctx, key)
		if err != nil || at == 0 || o.Owner != owner {
			return err
		}
		var done struct{}
		err = l.k.api(ctx, "STREAM.MSG.DELETE."+l.k.records, map[string]any{"seq": at, "no_erase": true}, &done)
		if err == nil {
			return nil
		}
		if refused := new(jetstream.APIError); !errors.As(err, &refused) {
			return err // else it may have been replaced just now
		}
	}
	return unavailable("log", errBusy)
}
