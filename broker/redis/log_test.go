package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/long"
)

// logged opens a broker with a log.
func logged(t *testing.T, rawURL string, o broker.LogOptions) broker.Broker {
	if o.Age > 0 {
		rawURL += fmt.Sprintf("?log=%v", o.Age)
	}
	if o.Length > 0 {
		rawURL += fmt.Sprint("&log_length=", o.Length)
	}
	if o.Bytes > 0 {
		rawURL += fmt.Sprint("&log_bytes=", o.Bytes)
	}
	return opened(t, rawURL)
}

func logContract(t *testing.T, rawURL string) {
	brokertest.RunLog(t, func(t *testing.T, o broker.LogOptions) broker.Broker { return logged(t, rawURL, o) })
}

// realRedis is a server that tells its run id.
func realRedis(t *testing.T, args ...string) *backend.Server {
	s := backend.Redis(t, args...)
	if s.Kind == backend.StandIn {
		t.Skip("the stand-in does not tell its run id, which a log needs")
	}
	return s
}

func TestLogContract(t *testing.T) {
	logContract(t, "redis://"+realRedis(t).Addr)
}

func TestLogContractOnSentinel(t *testing.T) {
	long.Only(t)
	logContract(t, backend.RedisSentinels(t, backend.RedisProduct).URL)
}

func TestLogContractOnCluster(t *testing.T) {
	logContract(t, backend.RedisCluster(t, backend.RedisProduct, 0).URL)
}

// TestARestartOfTheServerIsAGapOfTheLog has the server keep its memory, so that only its run id tells.
func TestARestartOfTheServerIsAGapOfTheLog(t *testing.T) {
	s := realRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	if !s.Restartable() {
		t.Skip("this server is not ours to restart")
	}
	b := logged(t, "redis://"+s.Addr, broker.LogOptions{Age: 1e12})
	l, err := b.(broker.Logger).Log()
	if err != nil {
		t.Fatal(err)
	}
	publish := func() {
		t.Helper()
		if _, err := b.Publish(t.Context(), broker.Message{Subject: "x", Log: "x", Place: 1}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(after uint64) (n int, err error) {
		msgs, _, err := l.Read(t.Context(), []broker.Part{{Log: "x", After: after}})
		return len(msgs), err
	}
	before, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	publish()
	if n, err := read(before); n != 1 || err != nil {
		t.Fatalf("read %d messages, %v", n, err)
	}
	s.Restart()
	for {
		_, err := b.Publish(t.Context(), broker.Message{Subject: "x", Log: "x", Place: 1})
		if err == nil {
			break
		}
		if !errors.Is(err, broker.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if n, err := read(before); !errors.Is(err, broker.ErrForgotten) {
		t.Errorf("over the restart: %d messages, %v", n, err)
	}
	after, err := l.Head(t.Context())
	if err != nil || after <= before {
		t.Fatalf("the head was %d and is %d, %v", before, after, err)
	}
	publish()
	if n, err := read(after); n != 1 || err != nil {
		t.Errorf("behind the restart: %d messages, %v", n, err)
	}
}

func TestAServerThatDropsKeysKeepsNoLog(t *testing.T) {
	s := realRedis(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	u := &url.URL{Scheme: "redis", Host: s.Addr, RawQuery: "log=1m"}
	_, err := redis.Open(t.Context(), u)
	if err == nil || !strings.Contains(err.Error(), "noeviction") {
		t.Errorf("the error is %v", err)
	}
}

// BenchmarkLog publishes messages that a node gets, from one caller and from many, without a log and with one.
func BenchmarkLog(b *testing.B) {
	s := backend.Redis(b)
	if s.Kind == backend.StandIn {
		b.Skip("the stand-in keeps no log")
	}
	for _, callers := range []int{1, 64} {
		for _, log := range []string{"", "?log=5m"} {
			b.Run(fmt.Sprintf("callers=%d/log=%v", callers, log != ""), func(b *testing.B) {
				out, in := opened(b, s.URL+log), opened(b, s.URL+log)
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error)
				go func() { ended <- in.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}}) }() // waited for below
				defer func() {
					cancel()
					<-ended
				}()
				if err := in.Subscribe(ctx, "x"); err != nil {
					b.Fatal(err)
				}
				m := broker.Message{Subject: "x", Data: make([]byte, 200)}
				if log != "" {
					m.Log, m.Place = "x", 1
				}
				b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
				publish := func() {
					if r, err := out.Publish(ctx, m); err != nil || r[0].Nodes != 1 {
						b.Errorf("%v, %v", r, err)
					}
				}
				b.ResetTimer()
				if callers == 1 {
					for b.Loop() {
						publish()
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						publish()
					}
				})
			})
		}
	}
}

// TestThePlacesAreBehindWhatWasTheHead has the clock be set back, as far as the server's memory can show that.
func TestThePlacesAreBehindWhatWasTheHead(t *testing.T) {
	s := realRedis(t)
	b := logged(t, "redis://"+s.Addr, broker.LogOptions{Age: 1e12})
	l, err := b.(broker.Logger).Log()
	if err != nil {
		t.Fatal(err)
	}
	remembered := func() string {
		t.Helper()
		return fmt.Sprint(do(t, s.Addr, "HGET", "tether:log", "n"))
	}
	head, err := l.Head(t.Context())
	if got := remembered(); err != nil || got != fmt.Sprint(head) {
		t.Errorf("the head is %d, %v, and the server remembers %s", head, err, got)
	}
	_, head, err = l.Read(t.Context(), nil)
	if got := remembered(); err != nil || got != fmt.Sprint(head) {
		t.Errorf("the head is %d, %v, and the server remembers %s", head, err, got)
	}
}
