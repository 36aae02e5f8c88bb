package redis_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

// command sends a command to a node of a Cluster.
func command(t *testing.T, addr string, args ...any) {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: addr})
	defer client.Close()
	if err := client.Do(context.Background(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// A master without a replica takes its own subjects with it, and no others.
func TestADeadMasterWithoutAReplicaLeavesTheOthersAtWork(t *testing.T) {
	long.Only(t)
	t.Parallel()
	for _, whenDown := range []string{"yes", "no"} {
		t.Run("cluster-allow-pubsubshard-when-down "+whenDown, func(t *testing.T) {
			c := backend.RedisCluster(t, backend.RedisProduct, 0, "--cluster-allow-pubsubshard-when-down", whenDown)
			l := startLoad(t, opened(t, c.URL), opened(t, c.URL), 60)
			c.Nodes[2].Stop()
			l.awaitState(false)
			if whenDown == "yes" {
				l.mu.Lock()
				before := make(map[string]int)
				for s, got := range l.got {
					before[s] = len(got)
				}
				l.mu.Unlock()
				l.await("the other masters' subjects", func() bool {
					n := 0
					for s, k := range before {
						if len(l.got[s]) > k+200 {
							n++
						}
					}
					return n >= 30
				})
				l.await("word that it is a part", func() bool { return errors.Is(l.states[len(l.states)-1].err, broker.ErrPart) })
			}
			c.Nodes[2].Start()
			l.awaitState(true)
			l.finish()
			if whenDown == "yes" {
				l.wantSomeSubjects()
			}
		})
	}
}

// The link to one master falls silent, the others go on; and its lease runs out there alone.
func TestASilentLinkToOneMasterIsAGapOfItsSubjects(t *testing.T) {
	long.Only(t)
	long.Alone(t)
	c := backend.RedisCluster(t, backend.RedisProduct, 0)
	proxy := faultproxy.New(t, c.Nodes[0].Addr)
	client := goredis.NewClusterClient(&goredis.ClusterOptions{
		Addrs: []string{c.Nodes[1].Addr},
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == c.Nodes[0].Addr {
				addr = proxy.Addr()
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	})
	defer client.Close()
	b, err := newBroker(client)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l := startLoad(t, b, opened(t, c.URL), 60)
	proxy.Hold(faultproxy.Both)
	begin := time.Now()
	if took := l.awaitState(false).Sub(begin); took > long.Limit(3*time.Second) {
		t.Errorf("noticed after %v", took)
	}
	l.await("a receipt of nobody", func() bool {
		for _, sent := range l.sent {
			if last := sent[len(sent)-1]; last.err == nil && last.reach.Nobody() {
				return true
			}
		}
		return false
	})
	t.Logf("not counted after %v", time.Since(begin).Round(time.Millisecond))
	proxy.Heal()
	l.awaitState(true)
	l.finish()
	l.wantSomeSubjects()
}

// A master that is cut off from the other servers, but not from us, goes on serving what another has
// taken over. Nobody is told by it.
func TestAMasterThatDoesNotKnowThatItIsReplacedIsLeft(t *testing.T) {
	long.Only(t)
	t.Parallel()
	c := backend.RedisCluster(t, backend.RedisProduct, 1)
	l := startLoad(t, opened(t, c.URL), opened(t, c.URL), 60)
	for i := 1; i < len(c.Nodes); i++ { // it will not listen to them for a minute
		command(t, c.Nodes[0].Addr, "CLUSTER", "FORGET", c.ID(i))
	}
	begin := time.Now()
	command(t, c.Nodes[3].Addr, "CLUSTER", "FAILOVER", "TAKEOVER")
	awaitOwner(t, c, 1, 0, c.Nodes[3].Addr)
	l.awaitCount(c.Nodes[3].Addr, 1)
	t.Logf("left after %v", time.Since(begin).Round(time.Millisecond))
	l.awaitAll()
	l.finish()
	l.wantSomeSubjects()
}

// awaitCount waits until a server has as many channels at least.
func (l *load) awaitCount(addr string, want int) {
	l.t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: addr})
	defer client.Close()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(5 * time.Millisecond) {
		channels, err := client.PubSubShardChannels(context.Background(), "*").Result()
		if err == nil && len(channels) >= want {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s has %d channels, %v", addr, len(channels), err)
		}
	}
}

// Users come and go while slots move: in the end each is where the last call has put it, and no call has
// failed.
func TestUsersComeAndGoWhileSlotsMove(t *testing.T) {
	t.Parallel()
	c := backend.RedisCluster(t, backend.RedisProduct, 0)
	b, p := opened(t, c.URL), opened(t, c.URL)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}}) }()
	stop := make(chan struct{})
	var users sync.WaitGroup
	var one sync.Mutex // calls are made one at a time
	const many = 64
	var rounds [many]int
	for i := range many {
		users.Go(func() {
			name := "user:" + strconv.Itoa(i)
			for ; ; rounds[i]++ {
				select {
				case <-stop:
					return
				default:
				}
				change := b.Subscribe
				if rounds[i]%2 == 1 {
					change = b.Unsubscribe
				}
				one.Lock()
				err := change(ctx, name, "next to "+name)
				one.Unlock()
				if err != nil {
					t.Errorf("%s, round %d: %v", name, rounds[i], err)
					return
				}
			}
		})
	}
	at := redis.PartitionSlots()
	for round := range long.Or(1, 4) {
		for _, slot := range at[:60] {
			if err := c.MoveSlot(slot, round%2, 1-round%2); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	users.Wait()
	total := 0
	for i := range many {
		total += rounds[i]
		name := "user:" + strconv.Itoa(i)
		want := rounds[i] % 2
		reach, err := p.Publish(ctx, broker.Message{Subject: name}, broker.Message{Subject: "next to " + name})
		if err != nil || reach[0].Nodes != want || reach[1].Nodes != want {
			t.Errorf("%s: got %v, %v, want %d", name, reach, err, want)
		}
	}
	t.Logf("%d calls", total)
	cancel()
	if err := errors.Join(<-ended); err != nil {
		t.Error(err)
	}
}
