package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/internal/backend"
)

// startSentinel watches the master at addr, and returns the address of the Sentinel.
func startSentinel(t *testing.T, addr string) string {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("needs a redis-server to run as a Sentinel")
	}
	host, masterPort, _ := net.SplitHostPort(addr)
	port := freePort(t)
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %s\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
		port, host, masterPort)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, config, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return net.JoinHostPort("127.0.0.1", port)
}

func TestAClientOfSentinelFollowsItsMaster(t *testing.T) {
	if testing.Short() {
		t.Skip("a failover takes seconds")
	}
	master := backend.Redis(t, "--maxclients", "1000")
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := backend.Redis(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	watcher := startSentinel(t, master.Addr)
	sentinel := goredis.NewSentinelClient(&goredis.Options{Addr: watcher})
	defer sentinel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for { // until the Sentinel knows the replica
		replicas, err := sentinel.Replicas(ctx, "main").Result()
		if err == nil && len(replicas) == 1 && replicas[0]["master-link-status"] == "ok" {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the Sentinel knows %v, %v", replicas, err)
		}
		<-time.After(50 * time.Millisecond)
	}

	client := goredis.NewFailoverClient(&goredis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{watcher}})
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
	master.Stop()
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
	admin := goredis.NewClient(&goredis.Options{Addr: replica.Addr})
	defer admin.Close()
	if n := admin.PubSubNumSub(ctx, "s").Val()["s"]; n != 1 {
		t.Errorf("the new master has %d subscribers", n)
	}
	if err := errors.Join(b.Close(), <-ended); err != nil {
		t.Error(err)
	}
}
