package redis_test

import (
	"context"
	"errors"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/long"
)

// opened returns the broker that a URL names, through the mux that takes several hosts.
func opened(tb testing.TB, rawURL string) broker.Broker {
	tb.Helper()
	var mux = broker.Mux{}
	for _, scheme := range []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"} {
		mux[scheme] = redis.Open
	}
	b, err := mux.Open(context.Background(), rawURL)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	return b
}

func TestBrokerContractOnSentinel(t *testing.T) {
	long.Only(t)
	s := backend.RedisSentinels(t, backend.RedisProduct)
	both := func(f func(*backend.Server)) func(testing.TB) {
		return func(testing.TB) { f(s.Nodes[1]); f(s.Nodes[0]) } // the replica first, so that it cannot take over
	}
	brokertest.Run(t, brokertest.Harness{
		New:     func(tb testing.TB) broker.Broker { return opened(tb, s.URL) },
		MaxData: 16 << 20,
		Stop:    both((*backend.Server).Stop),
		Start:   both((*backend.Server).Start),
		Pause:   both((*backend.Server).Pause),
		Resume:  both((*backend.Server).Resume),
	})
}

func TestAFailoverUnderLoadIsAGapThatHidesNothing(t *testing.T) {
	t.Parallel()
	ends := []struct {
		name string
		end  func(*backend.Server)
	}{{"the master dies", (*backend.Server).Stop}, {"the master falls silent", (*backend.Server).Pause}}
	for _, how := range long.Or(ends[:1], ends) {
		t.Run(how.name, func(t *testing.T) {
			s := backend.RedisSentinels(t, backend.RedisProduct) // its own: a former master may be long in following
			master := s.Master()
			l := startLoad(t, opened(t, s.URL), opened(t, s.URL), 20)
			begin := time.Now()
			how.end(master)
			l.awaitState(false)
			for s.Master() == master || s.Master() == nil {
				if time.Since(begin) > time.Minute {
					t.Fatal("the Sentinels elect nobody")
				}
				<-time.After(5 * time.Millisecond)
			}
			elected := time.Now()
			up := l.awaitState(true)
			t.Logf("elected after %v, subscribed %v later", elected.Sub(begin).Round(time.Millisecond), up.Sub(elected).Round(time.Millisecond))
			if up.Sub(elected) > long.Limit(time.Second) {
				t.Errorf("subscribed %v after the election", up.Sub(elected))
			}
			if lost := l.finish(); lost == 0 && len(l.gaps) == 0 {
				t.Error("no gap was reported")
			}
		})
	}
}

func TestAClientOfSentinelFollowsItsMaster(t *testing.T) {
	long.Only(t)
	t.Parallel()
	s := backend.RedisSentinels(t, backend.RedisProduct)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var sentinels []string
	for _, w := range s.Sentinels {
		sentinels = append(sentinels, w.Addr)
	}
	client := goredis.NewFailoverClient(&goredis.FailoverOptions{MasterName: s.Name, SentinelAddrs: sentinels})
	defer client.Close()
	b, err := newBroker(client)
	if err != nil {
		t.Fatal(err)
	}
	got, gaps, ended := make(chan broker.Message, 100), make(chan broker.Gap, 100), make(chan error, 1)
	go func() {
		ended <- b.Run(ctx, broker.Handler{
			Deliver: func(m broker.Message) { got <- m },
			Gap:     func(g broker.Gap) { gaps <- g },
		})
	}()
	if err := b.Subscribe(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	if reach, err := b.Publish(ctx, broker.Message{Subject: "s"}); err != nil || reach[0].Nodes != 1 {
		t.Fatalf("before: %v, %v", reach, err)
	}
	<-got
	s.Nodes[0].Stop()
	select {
	case g := <-gaps:
		t.Logf("a gap of %v: %v", g.To.Sub(g.From).Round(time.Millisecond), g.Cause)
	case <-ctx.Done():
		t.Fatal("the broker did not find the new master")
	}
	for {
		reach, err := b.Publish(ctx, broker.Message{Subject: "s", Data: []byte("after")})
		if err == nil && reach[0].Nodes == 1 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("after: %v, %v", reach, err)
		}
	}
	if m := <-got; string(m.Data) != "after" {
		t.Errorf("got %q", m.Data)
	}
	admin := goredis.NewClient(&goredis.Options{Addr: s.Nodes[1].Addr})
	defer admin.Close()
	if n := admin.PubSubNumSub(ctx, "s").Val()["s"]; n != 1 {
		t.Errorf("the new master has %d subscribers", n)
	}
	if err := errors.Join(b.Close(), <-ended); err != nil {
		t.Error(err)
	}
}
