package redis_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

// States of a server that its operators know: it is neither up nor down.

// The master behind a stable name is replaced by an order, and goes on as a replica. It takes messages, counts
// nobody, and closes no connection.
func TestAMasterBehindANameThatBecomesAReplicaIsLeftByAll(t *testing.T) {
	long.Only(t)
	t.Parallel()
	for _, user := range long.Or([]string{"poor"}, []string{"poor", "default"}) { // poor may not even ask for the role
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			old, next := backend.Redis(t, "--maxclients", "1000"), backend.Redis(t, "--maxclients", "1000")
			password := ""
			for _, s := range []*backend.Server{old, next} {
				do(t, s.Addr, "ACL", "SETUSER", "poor", "on", ">p", "allchannels", "-@all", "+subscribe", "+unsubscribe", "+publish", "+ping")
			}
			if user == "poor" {
				password = "p"
			}
			follow(t, next, old)
			name := faultproxy.New(t, old.Addr)
			n := observe(t, quiet(t, name.Addr(), user, password))
			worker := quiet(t, name.Addr(), user, password)
			n.awaitState(true)
			subjects := []string{"a", "b", "c", "d", "e", "f"} // on several lanes
			n.subscribe(subjects...)
			for i, s := range subjects {
				if !n.audit1(worker, s, i) || !n.audit1(n.b, s, 10+i) {
					t.Errorf("%s: the receipt is not exact before", s)
				}
			}
			name.Lead(next.Addr)
			do(t, next.Addr, "REPLICAOF", "NO", "ONE")
			do(t, old.Addr, append([]any{"REPLICAOF"}, hostPort(next.Addr)...)...)
			for i, s := range subjects {
				n.awaitExact(worker, s, 1000*(i+1))
				n.awaitExact(n.b, s, 1000*(i+1)+500)
			}
			if late := quiet(t, name.Addr(), user, password); !n.audit1(late, "a", 9999) {
				t.Error("a process that starts now has no exact receipt")
			}
			if gaps := n.gapped(); len(gaps) != 1 {
				t.Errorf("gaps %v", gaps)
			}
		})
	}
}

// A stable name comes to lead to another server, and the old one goes on as a master.
func TestANameThatLeadsToAnotherMasterIsFollowedByAll(t *testing.T) {
	t.Parallel()
	long.Only(t)
	old, next := backend.Redis(t, "--maxclients", "1000"), backend.Redis(t, "--maxclients", "1000")
	<-time.After(3 * time.Second) // so that neither can be taken for the other, started again
	name := faultproxy.New(t, old.Addr)
	n := observe(t, quiet(t, name.Addr(), "", ""))
	worker := quiet(t, name.Addr(), "", "")
	n.awaitState(true)
	n.subscribe("a")
	n.awaitExact(worker, "a", 0)
	name.Lead(next.Addr)
	begin := time.Now()
	for i := 1000; len(n.gapped()) == 0; i++ { // no receipt lies meanwhile
		n.audit1(worker, "a", i)
		<-time.After(5 * time.Millisecond)
		if time.Since(begin) > 20*time.Second {
			t.Fatal("the node stays")
		}
	}
	t.Logf("figure: the node has moved after %v", time.Since(begin).Round(time.Millisecond))
	for i := 100_000; time.Since(begin) < 15*time.Second; i++ {
		n.audit1(worker, "a", i)
		<-time.After(5 * time.Millisecond)
	}
	n.awaitExact(worker, "a", 200_000)
	if got := do(t, old.Addr, "PUBSUB", "NUMSUB", "a"); fmt.Sprint(got) != "[a 0]" {
		t.Errorf("the old server has %v", got)
	}
}

// A server that cannot save its snapshot refuses writes, and PING, and carries messages.
func TestAServerThatCannotSaveCarriesOn(t *testing.T) {
	long.Only(t)
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := backend.Redis(t, "--save", "3600 1", "--dir", dir)
	n, worker := observe(t, node(t, s.Addr)), node(t, s.Addr)
	n.awaitState(true)
	n.subscribe("a")
	n.awaitExact(worker, "a", 0)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	do(t, s.Addr, "SET", "a", "b")
	do(t, s.Addr, "BGSAVE")
	refusesPing(t, s.Addr)
	for i := 1000; i < 1300; i++ {
		if !n.audit1(worker, "a", i) {
			t.Error("a receipt is not exact")
		}
		<-time.After(5 * time.Millisecond)
	}
	n.subscribe("b")
	b, err := open("redis://" + s.Addr)
	if err != nil {
		t.Fatalf("a process that starts now: %v", err)
	}
	defer b.Close()
	other := observe(t, b)
	other.awaitState(true)
	other.subscribe("c")
	if !other.audit1(worker, "c", 0) {
		t.Error("a receipt is not exact")
	}
	n.undisturbed()
	do(t, s.Addr, "CONFIG", "SET", "stop-writes-on-bgsave-error", "no") // it may end
}

func refusesPing(t *testing.T, addr string) {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1})
	defer c.Close()
	for begin := time.Now(); c.Ping(context.Background()).Err() == nil; <-time.After(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("the server does not refuse PING")
		}
	}
}

// A script that does not end makes the server refuse all there is, and answer.
func TestABusyServerIsNoDeadServer(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--busy-reply-threshold", "50")
	n := observe(t, node(t, s.Addr))
	n.awaitState(true)
	n.subscribe("a")
	script := make(chan struct{})
	go func() { // ends with the script
		defer close(script)
		c := goredis.NewClient(&goredis.Options{Addr: s.Addr, MaxRetries: -1, ReadTimeout: time.Minute})
		defer c.Close()
		c.Eval(context.Background(), "while true do end", nil)
	}()
	refusesPing(t, s.Addr)
	if errs := n.b.Subscribe(context.Background(), "b"); errs == nil || !errors.Is(errs[0], broker.ErrUnavailable) || !strings.Contains(errs[0].Error(), "BUSY") {
		t.Errorf("Subscribe: %v", errs)
	}
	if _, err := n.b.Publish(context.Background(), broker.Message{Subject: "a"}); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Publish: %v", err)
	}
	late := observe(t, node(t, s.Addr)) // that it may not ask for its name now does not mean that it never may
	late.awaitState(false)
	<-time.After(2500 * time.Millisecond) // longer than a silent server is waited for
	do(t, s.Addr, "SCRIPT", "KILL")
	<-script
	n.subscribe("b")
	n.awaitExact(n.b, "a", 0)
	n.undisturbed()
	late.awaitState(true)
	for begin := time.Now(); do(t, s.Addr, "ZCARD", "tether:nodes") != int64(2); <-time.After(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("a node has no lease")
		}
	}
}

// A server on which HELLO is renamed does not say that it is a master: nothing is called exact.
func TestWhatIsNotProvenIsNotCalledExact(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--rename-command", "HELLO", "")
	var log safeBuffer
	client := goredis.NewClient(&goredis.Options{Addr: s.Addr})
	defer client.Close()
	b, err := redis.New(client, redis.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n := observe(t, b)
	n.awaitState(true)
	n.subscribe("a")
	for i, want := range map[string]broker.Receipt{"a": {Nodes: 1, Bound: broker.AtLeast}, "nobody": {Bound: broker.Unknown}} {
		if r, err := b.Publish(context.Background(), broker.Message{Subject: i}); err != nil || r[0] != want {
			t.Errorf("%s: got %v, %v, want %v", i, r, err, want)
		}
	}
	if got := strings.Count(log.String(), "HELLO must not be renamed"); got != 1 {
		t.Errorf("it is said %d times: %s", got, log.String())
	}
}

// Leases cannot be renewed while the server refuses writes. Nodes that live are left alone; one that is frozen is
// dropped all the same.
func TestAServerThatRefusesWritesCutsOffTheDeadAndNobodyElse(t *testing.T) {
	long.Alone(t)
	for how, set := range map[string][2]string{
		"it is out of memory": {"maxmemory", "1"},
		"it lacks replicas":   {"min-replicas-to-write", "1"},
	} {
		t.Run(how, func(t *testing.T) {
			long.Alone(t)
			s := backend.Redis(t, "--maxclients", "1000")
			proxy := faultproxy.New(t, s.Addr)
			alive, frozen := observe(t, node(t, s.Addr)), observe(t, node(t, proxy.Addr()))
			worker := node(t, s.Addr)
			alive.awaitState(true)
			frozen.awaitState(true)
			alive.subscribe("alive")
			frozen.subscribe("frozen")
			for begin := time.Now(); do(t, s.Addr, "ZCARD", "tether:nodes") != int64(2); <-time.After(5 * time.Millisecond) {
				if time.Since(begin) > 20*time.Second {
					t.Fatal("the nodes have no leases")
				}
			}
			do(t, s.Addr, "CONFIG", "SET", set[0], set[1])
			begin := time.Now()
			for i := 0; time.Since(begin) < 6*time.Second; i++ { // leases are over after four seconds
				if !alive.audit1(worker, "alive", i) || !frozen.audit1(worker, "frozen", i) {
					t.Error("a receipt is not exact")
				}
				<-time.After(20 * time.Millisecond)
			}
			alive.subscribe("another")
			frozen.undisturbed()
			proxy.Hold(faultproxy.Both)
			for begin = time.Now(); ; <-time.After(20 * time.Millisecond) {
				r, err := worker.Publish(context.Background(), broker.Message{Subject: "frozen"})
				if err == nil && r[0].Nobody() {
					break
				}
				if time.Since(begin) > long.Limit(8*time.Second) {
					t.Fatalf("a frozen node is still counted: %v, %v", r, err)
				}
			}
			t.Logf("figure: a frozen node is not counted after %v", time.Since(begin).Round(time.Millisecond))
			proxy.Heal()
			alive.undisturbed()
		})
	}
}

// A server that is full hangs up at the greeting. That says nothing of what it can do.
func TestAServerThatWasFullIsUsedAsEveryOtherAfterwards(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--maxclients", "2")
	hold := goredis.NewClient(&goredis.Options{Addr: s.Addr, MaxRetries: -1})
	defer hold.Close()
	admin, other := hold.Conn(), hold.Conn()
	defer admin.Close()
	defer other.Close()
	if err := errors.Join(admin.Ping(t.Context()).Err(), other.Ping(t.Context()).Err()); err != nil {
		t.Fatal(err)
	}
	if _, err := open("redis://" + s.Addr); err == nil || !strings.Contains(err.Error(), "maxclients") {
		t.Errorf("Open: %v", err)
	}
	n := observe(t, node(t, s.Addr))
	n.awaitState(false)
	if !strings.Contains(n.states[0].Error(), "maxclients") {
		t.Errorf("the state is %v", n.states[0])
	}
	if err := admin.ConfigSet(t.Context(), "maxclients", "1000").Err(); err != nil {
		t.Fatal(err)
	}
	n.awaitState(true)
	for begin := time.Now(); do(t, s.Addr, "ZCARD", "tether:nodes") != int64(1); <-time.After(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("the node has no lease")
		}
	}
}

// What is denied is looked at again: the rights may come later.
func TestLeasesBeginWhenTheirRightsAreGiven(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--maxclients", "1000")
	poor := []any{"ACL", "SETUSER", "u", "on", ">p", "allchannels", "allkeys", "-@all", "+subscribe", "+unsubscribe", "+publish", "+ping", "+client|info"}
	do(t, s.Addr, poor...)
	var log safeBuffer
	client := goredis.NewClient(&goredis.Options{Addr: s.Addr, Username: "u", Password: "p"})
	defer client.Close()
	b, err := redis.New(client, redis.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n := observe(t, b)
	n.awaitState(true)
	for begin := time.Now(); !strings.Contains(log.String(), "may stay counted"); <-time.After(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("nobody is told")
		}
	}
	do(t, s.Addr, append(poor, "+time", "+zadd", "+pexpire", "+zrangebyscore", "+zrem", "+client|list", "+client|kill")...)
	for begin := time.Now(); do(t, s.Addr, "ZCARD", "tether:nodes") != int64(1) || !strings.Contains(log.String(), "kept again"); <-time.After(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("the node has no lease; %s", log.String())
		}
	}
	if got := strings.Count(log.String(), "may stay counted"); got != 1 {
		t.Errorf("it is said %d times", got)
	}
}

// Something in between closes connections on which nothing moves. Nobody notices.
func TestAPauseMakesNoReceiptUncertain(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--maxclients", "1000")
	proxy := faultproxy.New(t, s.Addr)
	proxy.Idle(1500 * time.Millisecond)
	n, worker := observe(t, node(t, s.Addr)), node(t, proxy.Addr())
	n.awaitState(true)
	n.subscribe("a", "b", "c", "d")
	for round := range long.Or(2, 5) {
		for i, subject := range []string{"a", "b", "c", "d"} {
			if !n.audit1(worker, subject, 10*round+i) {
				t.Errorf("round %d: the receipt of %s is not exact", round, subject)
			}
		}
		<-time.After(2 * time.Second)
	}
	n.undisturbed()
}

// The rights on a channel are taken away, and the connection with them. The channel is lost, and no other.
func TestAChannelThatIsForbiddenLaterIsLostAndNoOther(t *testing.T) {
	long.Alone(t)
	s := backend.Redis(t, "--maxclients", "1000")
	do(t, s.Addr, "ACL", "SETUSER", "u", "on", ">p", "allkeys", "+@all", "resetchannels", "&a", "&b", "&c")
	n := observe(t, quiet(t, s.Addr, "u", "p"))
	n.awaitState(true)
	n.subscribe("a", "b", "c")
	before := time.Now()
	do(t, s.Addr, "ACL", "SETUSER", "u", "resetchannels", "&a", "&c")
	n.await("a loss", func() bool { return len(n.lost) == 1 })
	n.await("a gap", func() bool { return len(n.gaps) == 1 })
	n.awaitState(true)
	if g := n.lost[0]; !slices.Equal(g.Subjects, []string{"b"}) || !errors.Is(g.Cause, broker.ErrRefused) || g.From.After(before.Add(long.Limit(time.Second))) {
		t.Errorf("lost %+v", g)
	}
	for i, subject := range []string{"a", "c"} {
		n.awaitExact(n.b, subject, 1000*i)
	}
	if errs := n.b.Subscribe(context.Background(), "b", "a"); errs == nil || !errors.Is(errs[0], broker.ErrRefused) || errs[1] != nil {
		t.Errorf("Subscribe: %v", errs)
	}
	do(t, s.Addr, "ACL", "SETUSER", "u", "&b")
	n.subscribe("b")
	n.awaitExact(n.b, "b", 5000)
}

// One master of a Cluster is away. Subjects of the others are subscribed, at once and in the same calls.
func TestWhatBelongsToHealthyMastersIsSubscribedWhileOneIsAway(t *testing.T) {
	long.Alone(t)
	c := backend.RedisCluster(t, backend.RedisProduct, 0)
	n, worker := observe(t, opened(t, c.URL)), opened(t, c.URL)
	n.awaitState(true)
	c.Nodes[2].Stop()
	n.awaitState(false)
	var subjects []string
	for i := range 60 {
		subjects = append(subjects, "user:"+strconv.Itoa(i))
	}
	begin := time.Now()
	errs := n.b.Subscribe(context.Background(), subjects...)
	if took := time.Since(begin); took > long.Limit(time.Second) {
		t.Errorf("Subscribe took %v", took)
	}
	live := 0
	for i, err := range errs {
		switch away := redis.Partition(subjects[i]) > 170; {
		case away && !errors.Is(err, broker.ErrUnavailable):
			t.Errorf("%s of the dead master: %v", subjects[i], err)
		case !away && err != nil:
			t.Errorf("%s: %v", subjects[i], err)
		case !away:
			live++
			r, err := worker.Publish(context.Background(), broker.Message{Subject: subjects[i], Data: []byte("x")})
			if err != nil || r[0].Nodes != 1 {
				t.Errorf("%s: %v, %v", subjects[i], r, err)
			}
		}
	}
	if live < 30 || errs == nil {
		t.Errorf("%d are live", live)
	}
	c.Nodes[2].Start()
	n.awaitState(true)
	n.subscribe(subjects...)
}
