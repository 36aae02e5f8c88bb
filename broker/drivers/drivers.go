// Package drivers opens a broker from a URL, with any driver of this module. A program that knows its
// broker imports that driver alone, and links no other.
package drivers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"

	"tether/broker"
	"tether/broker/memory"
	"tether/broker/nats"
	"tether/broker/redis"
)

// Mux returns a mux with the schemes redis, redis+sentinel, redis+cluster, the same with rediss (TLS),
// nats, tls (NATS over TLS) and memory.
//
// Brokers of memory://NAME that are opened through the same Mux value are nodes on one bus, which the
// name tells from other buses; the empty name is one, too.
func Mux() broker.Mux {
	b := &buses{named: map[string]*memory.Bus{}}
	return broker.Mux{
		"redis":           redis.Open,
		"rediss":          redis.Open,
		"redis+sentinel":  redis.Open,
		"rediss+sentinel": redis.Open,
		"redis+cluster":   redis.Open,
		"rediss+cluster":  redis.Open,
		"nats":            nats.Open,
		"tls":             nats.Open,
		"memory":          b.open,
	}
}

type buses struct {
	mu    sync.Mutex
	named map[string]*memory.Bus // guarded by mu
}

func (b *buses) open(_ context.Context, u *url.URL) (broker.Broker, error) {
	query, err := url.ParseQuery(u.RawQuery)
	for key := range query {
		if !slices.Contains(broker.LogKeys(), key) || len(query[key]) > 1 {
			err = errors.New("unknown key")
		}
	}
	if err != nil || u.User != nil || u.Path != "" || u.Opaque != "" {
		return nil, errors.New("memory: a URL is memory://NAME and no more, but for log=5m, log_length and log_bytes behind a question mark")
	}
	keep, err := broker.ParseLog(query.Get)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	bus, ok := b.named[u.Host]
	if !ok {
		if bus = memory.NewBus(); keep.Age > 0 {
			bus = memory.NewLoggedBus(keep)
		}
		b.named[u.Host] = bus
	}
	return bus.Broker(), nil
}
