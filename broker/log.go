package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrForgotten says that a log does not have everything any more that was published after a place: it has dropped
// its oldest, or the backend has been restarted or replaced.
var ErrForgotten = errors.New("broker: the log does not reach back that far")

// Logger is a broker that can keep what is published, for a while. Log fails with [ErrNoLog] if it was not opened so. All
// that share a backend open it alike.
//
// With a log all messages that ask for a [Message.Place] have one order, that of their places, and every node delivers
// them in this order. Other messages keep the order of their publisher and subject among them. A backend that cannot say
// that nobody took a message with a place says that it does not know.
type Logger interface {
	Broker
	Log() (Log, error)
}

// Log is what was published, and records that nodes keep beside it. A place is a number that grows, also when the backend
// is restarted or replaced: of the size of the microseconds since 1970. All methods may be called concurrently, and need no Run.
type Log interface {
	// Age is how long messages are kept at most, and records since they were saved.
	Age() time.Duration

	// Head is the place of the last message that has one, or a later one before the next.
	Head(ctx context.Context) (uint64, error)

	// Read returns what was added to some logs, in order, and where the head was then. It fails with ErrForgotten
	// if that is not everything.
	Read(ctx context.Context, parts []Part) (msgs []Message, head uint64, err error)

	// Load returns the record with a key. One without an owner is not there.
	Load(ctx context.Context, key string) (Record, error)

	// Save saves a record for its owner, and takes it over if it is that of was. It does nothing and returns true if
	// a later version of the same owner is there, and false if another owner has it, or if it was to be taken over and
	// is not there.
	Save(ctx context.Context, key, was string, r Record) (saved bool, err error)

	// Drop forgets a record, if it is the owner's.
	Drop(ctx context.Context, key, owner string) error
}

// Part is of one log what was added after a place.
type Part struct {
	Log   string
	After uint64
}

// Record is what a node keeps in the backend.
type Record struct {
	Owner   string
	Version uint64
	Value   []byte
}

// LogOptions bound a log. Zero fields but the first have defaults.
type LogOptions struct {
	Age    time.Duration // for which messages are kept. 0: there is no log
	Length int           // messages of one subject that are kept. Default 10,000
	Bytes  int           // of one subject that are kept. Default 8 MiB
}

const (
	defaultLogLength = 10_000
	defaultLogBytes  = 8 << 20
	leastLogAge      = 10 * time.Second
)

// WithDefaults fills in what is zero.
func (o LogOptions) WithDefaults() LogOptions {
	if o.Length == 0 {
		o.Length = defaultLogLength
	}
	if o.Bytes == 0 {
		o.Bytes = defaultLogBytes
	}
	return o
}

// LogKeys are the keys of a broker's URL that [ParseLog] reads.
func LogKeys() []string { return []string{"log", "log_length", "log_bytes"} }

// ParseLog reads the options of a log from the query of a broker's URL.
func ParseLog(get func(key string) string) (o LogOptions, err error) {
	if text := get("log"); text != "" {
		if o.Age, err = time.ParseDuration(text); err != nil || o.Age < leastLogAge {
			return o, fmt.Errorf("log in the URL is no time of %v or more; 5m is right", leastLogAge)
		}
	}
	for key, n := range map[string]*int{"log_length": &o.Length, "log_bytes": &o.Bytes} {
		text := get(key)
		if text == "" {
			continue
		}
		if *n, err = strconv.Atoi(text); err != nil || *n < 1 {
			return o, fmt.Errorf("%s in the URL is no positive number", key)
		}
		if o.Age == 0 {
			return o, fmt.Errorf("%s in the URL needs log=5m, say, beside it", key)
		}
	}
	return o, nil
}

// ErrNoLog says that a broker was opened without a log.
var ErrNoLog = errors.New("broker: it keeps no log: its URL needs log=5m, say, on all nodes and emitters")
