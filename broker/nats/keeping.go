package nats

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

// With a log one stream orders all messages that have a place:
//
//	prefix.l.LOG.s.SUBJECT  what the stream takes. It passes each on to prefix.r.s.SUBJECT when it has stored it,
//	                        with its sequence in a header, one after the other
//	prefix.r.s.SUBJECT      what nodes subscribe to. What has no place is published there, when the stream has
//	                        answered for everything before it
//	prefix.l.anchor-N       one each second: while it is there, the stream has dropped nothing behind it to save bytes
//	prefix.k.KEY            records, in a stream of their own that keeps the last one of each subject
//	prefix.k.run            the generation
//
// So the order of the sequences is that in which each subscribed connection gets the messages.
//
// Of a server that was restarted nobody knows what it had stored and not passed on, nor what it has lost. A generation
// ends with the server or with the stream, and the next one begins all places anew above all former ones. The first
// program that comes to a server, or finds a new stream, begins it, and none publishes before it knows it. What is asked for from
// before is refused. Each message says in which generation it was published, so a node whose own is over notices that.

// keeping is how a log is kept.
type keeping struct {
	broker.LogOptions               // immutable
	conn              *natsio.Conn  // immutable
	link              *link         // immutable
	events            string        // immutable; name of the stream of messages
	records           string        // immutable; name of the stream of records
	recordBytes       int           // immutable; in it
	prefix            string        // immutable; with a dot at its end
	suspect           chan struct{} // capacity 1; something looks as if the generation were over
	now               atomic.Pointer[generation]
	known             *generation // owned by keep, and by New before; the last that was found

	mu      sync.Mutex
	why     error                // guarded by mu; why there is no generation
	changed chan struct{}        // guarded by mu; closed and replaced with why and now
	asking  map[*asking]struct{} // guarded by mu
}

// generation is a time in which neither the server nor the stream was replaced.
type generation struct {
	Server  string    `json:"server"`  // its ID, which is another one after each start
	Created time.Time `json:"created"` // of the stream
	Base    uint64    `json:"base"`    // the head when it began
	Before  uint64    `json:"before"`  // the last sequence before it

	epoch uint64    // in which it was looked up
	sure  time.Time // when it was known to be the present one
}

// is reports whether two generations are the same, as far as they are written down.
func (g *generation) is(o *generation) bool {
	return g.Server == o.Server && g.Created.Equal(o.Created) && g.Base == o.Base && g.Before == o.Before
}

// place is that of a sequence.
func (g *generation) place(sequence uint64) uint64 { return g.Base + sequence - g.Before }

// sequence undoes place.
func (g *generation) sequence(place uint64) uint64 { return g.Before + place - g.Base }

const (
	defaultLogBytes    = 1 << 30   // of the whole log
	defaultRecordBytes = 256 << 20 // of all records
	streamEvents       = "-log"
	streamRecords      = "-sessions"
)

func newKeeping(conn *natsio.Conn, l *link, o Options) *keeping {
	name := strings.ReplaceAll(o.Prefix, ".", "=") // which no prefix has
	o.Log.Bytes = cmp.Or(o.Log.Bytes, defaultLogBytes)
	return &keeping{
		LogOptions:  o.Log.WithDefaults(),
		conn:        conn,
		link:        l,
		events:      name + streamEvents,
		records:     name + streamRecords,
		recordBytes: cmp.Or(o.LogRecords, defaultRecordBytes),
		prefix:      o.Prefix + ".",
		suspect:     make(chan struct{}, 1),
		changed:     make(chan struct{}),
		asking:      make(map[*asking]struct{}),
	}
}

func (k *keeping) rooms() string { return k.prefix + "r." }

// of returns the present generation, nil if it is not known in an epoch.
func (k *keeping) of(e epoch) *generation {
	if g := k.now.Load(); g != nil && g.epoch == e.n {
		return g
	}
	return nil
}

// await returns the generation, when it is known in an epoch.
func (k *keeping) await(ctx context.Context, e epoch, closed <-chan struct{}) (*generation, error) {
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	for {
		k.mu.Lock()
		changed, why := k.changed, k.why
		k.mu.Unlock()
		if g := k.of(e); g != nil {
			return g, nil
		}
		select {
		case <-changed:
		case <-limit.C:
			if why == nil {
				why = errSilent
			}
			return nil, unavailable("log", why)
		case <-e.down:
			return nil, unavailable("log", k.link.why())
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-closed:
			return nil, broker.ErrClosed
		}
	}
}

// set takes what was found out: a generation, or why there is none.
func (k *keeping) set(g *generation, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now.Store(g)
	k.why = why
	close(k.changed)
	k.changed = make(chan struct{})
}

// reason is why there is no generation; nil: there is one, or nobody has looked yet.
func (k *keeping) reason() error {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.why
}

// token turns any text into one token of a subject, injectively.
func token(text string) string {
	if len(text) <= maxEscaped {
		if t := bytes.ReplaceAll(appendEscaped([]byte("s"), text), []byte("."), []byte("=2E")); len(t) <= maxEscaped {
			return string(t)
		}
	}
	sum := sha256.Sum256([]byte(text))
	return "h" + hex.EncodeToString(sum[:])
}

const unlogged = "0" // token of the log of what is in none

// appendSubject appends what a message with a place is published on. Room is the NATS subject of its subject.
func (k *keeping) appendSubject(dst []byte, log string, room []byte) []byte {
	dst = append(append(dst, k.prefix...), "l."...)
	if log == "" {
		dst = append(dst, unlogged...)
	} else {
		dst = append(dst, token(log)...)
	}
	return append(append(dst, '.'), room[len(k.rooms()):]...)
}

// room undoes appendSubject. It is "" if the subject is another one.
func (k *keeping) room(subject string) string {
	rest, _ := strings.CutPrefix(subject, k.prefix+"l.")
	if _, rest, _ = strings.Cut(rest, "."); rest == "" {
		return ""
	}
	return k.rooms() + rest
}

// appendFront appends what comes before the data of a message with a place: the generation that it is published in, and
// where nodes acknowledge it.
func appendFront(dst []byte, g *generation, reply string) []byte {
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, g.Base), uint64(len(reply)))
	return append(dst, reply...)
}

// cutFront undoes appendFront.
func cutFront(data []byte) (base uint64, reply, rest []byte, ok bool) {
	base, n := binary.Uvarint(data)
	if n <= 0 {
		return 0, nil, nil, false
	}
	reply, rest, err := splitNamed(data[n:])
	return base, reply, rest, err == nil
}

// Headers of the server.
const (
	headerSequence = "Nats-Sequence"
	headerSubject  = "Nats-Subject"
	headerTTL      = "Nats-TTL"
	headerExpected = "Nats-Expected-Last-Subject-Sequence"
)

// taken takes apart what the stream has passed on. It is not ok if the generation that is known is not that of the message.
func (k *keeping) taken(m *natsio.Msg) (place uint64, reply string, data []byte, ok bool) {
	sequence, err := strconv.ParseUint(m.Header[headerSequence][0], 10, 64)
	base, inbox, data, front := cutFront(m.Data)
	g := k.now.Load()
	if err != nil || !front || g == nil || base != g.Base || sequence <= g.Before {
		k.doubt()
		return 0, "", nil, false
	}
	return g.place(sequence), string(inbox), data, true
}

// doubt has keep look whether the generation is over.
func (k *keeping) doubt() { signal(k.suspect) }

// asking is a question that waits for its answer.
type asking struct {
	subject string
	cancel  context.CancelCauseFunc
}

// denied takes the word of the server that we may not publish on a subject.
func (k *keeping) denied(subject string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for a := range k.asking {
		if a.subject == subject {
			a.cancel(fmt.Errorf("nats: publish to %s: %w: %w", subject, broker.ErrRefused, natsio.ErrPermissionViolation))
		}
	}
}

// ask sends a question to the server and returns the answer.
func (k *keeping) ask(ctx context.Context, m *natsio.Msg) (*natsio.Msg, error) {
	timed, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	cancellable, cancel := context.WithCancelCause(timed)
	defer cancel(nil)
	a := &asking{m.Subject, cancel}
	k.mu.Lock()
	k.asking[a] = struct{}{}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.asking, a)
	}()
	answer, err := k.conn.RequestMsgWithContext(cancellable, m)
	switch cause := context.Cause(cancellable); {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(cause, broker.ErrRefused):
		return nil, cause
	case timed.Err() != nil:
		err = errSilent
	case errors.Is(err, natsio.ErrMaxPayload):
		return nil, fmt.Errorf("nats: log: %w: %d bytes", broker.ErrTooLarge, len(m.Data))
	}
	return nil, unavailable("log", err)
}
