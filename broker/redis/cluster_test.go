package redis_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/internal/beat"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

// clusterHarness runs the suite on all servers of a Cluster at once.
func clusterHarness(c *backend.Cluster) brokertest.Harness {
	all := func(f func(*backend.Server)) func(testing.TB) {
		return func(testing.TB) {
			var group sync.WaitGroup
			for _, n := range c.Nodes {
				group.Go(func() { f(n) })
			}
			group.Wait()
		}
	}
	start, resume := all((*backend.Server).Start), all((*backend.Server).Resume)
	return brokertest.Harness{
		New:     func(tb testing.TB) broker.Broker { return opened(tb, c.URL) },
		MaxData: 16 << 20,
		Stop:    all((*backend.Server).Stop),
		Start:   func(tb testing.TB) { start(tb); c.AwaitOK() },
		Pause:   all((*backend.Server).Pause),
		Resume: func(tb testing.TB) {
			<-time.After(beat.Interval) // the silence of all is noticed by then, not only that of the first
			resume(tb)
		},
		Freezable: func(tb testing.TB) (broker.Broker, func(), func()) { return freezable(tb, c) },
	}
}

// freezable returns a node whose links to all servers can be held.
func freezable(tb testing.TB, c *backend.Cluster) (b broker.Broker, freeze, thaw func()) {
	var mu sync.Mutex
	proxies := make(map[string]*faultproxy.Proxy)
	for _, n := range c.Nodes {
		proxies[n.Addr] = faultproxy.New(tb, n.Addr)
	}
	client := goredis.NewClusterClient(&goredis.ClusterOptions{
		Addrs: []string{c.Nodes[0].Addr},
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			return new(net.Dialer).DialContext(ctx, network, proxies[addr].Addr())
		},
	})
	b, err := newBroker(client)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		b.Close()
		client.Close()
	})
	each := func(f func(*faultproxy.Proxy)) func() {
		return func() {
			for _, p := range proxies {
				f(p)
			}
		}
	}
	return b, each(func(p *faultproxy.Proxy) { p.Hold(faultproxy.Both) }), each((*faultproxy.Proxy).Heal)
}

func TestBrokerContractOnCluster(t *testing.T) {
	long.Only(t)
	brokertest.Run(t, clusterHarness(backend.RedisCluster(t, backend.RedisProduct, 0)))
}

func TestBrokerContractOnAClusterOfValkey(t *testing.T) {
	brokertest.Run(t, clusterHarness(backend.RedisCluster(t, backend.ValkeyProduct, 0)))
}

func TestAMastersDeathUnderLoadIsAGapOfItsSubjects(t *testing.T) {
	t.Parallel()
	deaths := []struct {
		name string
		end  func(*backend.Server)
	}{{"it dies", (*backend.Server).Stop}, {"it falls silent", (*backend.Server).Pause}}
	for _, how := range long.Or(deaths[:1], deaths) {
		t.Run(how.name, func(t *testing.T) {
			c := backend.RedisCluster(t, backend.RedisProduct, 1)
			l := startLoad(t, opened(t, c.URL), opened(t, c.URL), 60)
			begin := time.Now()
			how.end(c.Nodes[1])
			l.awaitState(false)
			elected := awaitOwner(t, c, 0, 8191, c.Nodes[4].Addr)
			up := l.awaitState(true)
			t.Logf("elected after %v, subscribed %v later", elected.Sub(begin).Round(time.Millisecond), up.Sub(elected).Round(time.Millisecond))
			if up.Sub(elected) > long.Limit(2*time.Second) {
				t.Errorf("subscribed %v after the election", up.Sub(elected))
			}
			if lost := l.finish(); lost == 0 && len(l.gaps) == 0 {
				t.Error("no gap was reported")
			}
			l.wantSomeSubjects()
		})
	}
}

// wantSomeSubjects checks that gaps are of some of the subjects only.
func (l *load) wantSomeSubjects() {
	l.t.Helper()
	missed := make(map[string]bool)
	for _, g := range l.gaps {
		if g.Subjects == nil {
			l.t.Error("a gap of all subjects")
		}
		for _, s := range g.Subjects {
			missed[s] = true
		}
	}
	if n := len(missed); n == 0 || n > len(l.subjects)*2/3 {
		l.t.Errorf("%d of %d subjects have gaps", n, len(l.subjects))
	}
}

// failOver orders a replica to take over a slot with its master's consent. Redis gives up such an order after five
// seconds, which a busy machine may take; then it is repeated. The node that is asked says whether it was carried out.
func failOver(t *testing.T, c *backend.Cluster, asked, replica, slot int) {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: c.Nodes[replica].Addr})
	defer client.Close()
	var err error
	for range 4 {
		err = client.ClusterFailover(t.Context()).Err()
		for end := time.Now().Add(6 * time.Second); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
			if owns(c, asked, slot, c.Nodes[replica].Addr) {
				return
			}
		}
	}
	t.Fatalf("slot %d does not come to %s: %v", slot, c.Nodes[replica].Addr, err)
}

// owns reports whether a node says that a slot belongs to addr.
func owns(c *backend.Cluster, node, slot int, addr string) bool {
	client := goredis.NewClient(&goredis.Options{Addr: c.Nodes[node].Addr})
	defer client.Close()
	//lint:ignore SA1019 it is the command that the driver reads, and names the owner first
	ranges, _ := client.ClusterSlots(context.Background()).Result()
	return slices.ContainsFunc(ranges, func(r goredis.ClusterSlot) bool {
		return r.Start <= slot && slot <= r.End && r.Nodes[0].Addr == addr
	})
}

// awaitOwner waits until a node says that a slot belongs to addr.
func awaitOwner(t *testing.T, c *backend.Cluster, node, slot int, addr string) time.Time {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !owns(c, node, slot, addr); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("slot %d does not come to %s", slot, addr)
		}
	}
	return time.Now()
}

func TestReshardingUnderLoadIsAGapOfWhatMoves(t *testing.T) {
	t.Parallel()
	c := backend.RedisCluster(t, backend.RedisProduct, 0)
	l := startLoad(t, opened(t, c.URL), opened(t, c.URL), 60)
	at := redis.PartitionSlots()
	// Half of the first master's partitions to the second, one by one, and back.
	for _, way := range [][2]int{{0, 1}, {1, 0}} {
		for _, slot := range at[:40] {
			if err := c.MoveSlot(slot, way[0], way[1]); err != nil {
				t.Fatal(err)
			}
		}
		l.awaitAll()
	}
	l.finish()
	l.wantSomeSubjects()
	for _, s := range l.states {
		if s.err != nil {
			t.Errorf("the node was down: %v", s.err)
		}
	}
}

// A master that is demoted by an order, while it lives, loses all its slots at once.
func TestAManualFailoverUnderLoadIsAGapThatHidesNothing(t *testing.T) {
	t.Parallel()
	c := backend.RedisCluster(t, backend.RedisProduct, 1)
	l := startLoad(t, opened(t, c.URL), opened(t, c.URL), 60)
	l.detours = true
	failOver(t, c, 1, 3, 0)
	l.awaitAll()
	l.finish()
	l.wantSomeSubjects()
}

func TestPartitionsAreSpreadEvenlyOverServers(t *testing.T) {
	t.Parallel()
	c := backend.RedisCluster(t, backend.RedisProduct, 0)
	b := opened(t, c.URL)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}}) }()
	var subjects []string
	for i := range 9000 {
		subjects = append(subjects, fmt.Sprint("user:", i))
	}
	if err := b.Subscribe(ctx, subjects...); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		client := goredis.NewClient(&goredis.Options{Addr: n.Addr})
		channels, err := client.PubSubShardChannels(ctx, "*").Result()
		client.Close()
		if k := len(channels); err != nil || k < 2700 || k > 3300 {
			t.Errorf("%s has %d channels, want about 3000; %v", n, k, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func BenchmarkCluster(b *testing.B) {
	brokertest.Benchmark(b, clusterHarness(backend.RedisCluster(b, backend.RedisProduct, 0)))
}
