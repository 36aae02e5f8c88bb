package backend

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Products that can be a Sentinel or a Cluster.
const (
	RedisProduct  = "redis-server"
	ValkeyProduct = "valkey-server"
)

// Sentinels are a master, its replica, and three Sentinels that watch them, all processes of this test.
// A master that is silent for half a second is replaced by the replica.
type Sentinels struct {
	URL       string // redis+sentinel://host:port,host:port,host:port/name
	Name      string // of the master, as the Sentinels know it
	Nodes     [2]*Server
	Sentinels [3]*Server

	secured *Security
}

// RedisSentinels starts them. Without a binary of the product on the PATH it skips the test, or fails it
// where TETHER_TEST_REQUIRE_REAL is 1.
func RedisSentinels(t testing.TB, product string, args ...string) *Sentinels {
	t.Helper()
	return SecureSentinels(t, product, nil, args...)
}

// SecureSentinels is RedisSentinels with TLS and users, if sec is not nil. The Sentinels know the user, too.
func SecureSentinels(t testing.TB, product string, sec *Security, args ...string) *Sentinels {
	t.Helper()
	path := modern(t, product)
	s := &Sentinels{Name: "main", secured: sec}
	s.Nodes[0] = launch(t, path, sec, args...)
	host, port, _ := net.SplitHostPort(s.Nodes[0].Addr)
	s.Nodes[1] = launch(t, path, sec, append(args, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")...)
	await(t, "the replica to follow its master", func() error {
		return sec.says(s.Nodes[1].Addr, "master_link_status:up", "INFO", "replication")
	})
	var addrs []string
	for i := range s.Sentinels {
		s.Sentinels[i] = watch(t, path, sec, s.Name, host, port)
		addrs = append(addrs, s.Sentinels[i].Addr)
	}
	for _, w := range s.Sentinels {
		await(t, "the Sentinels to know each other and the replica", func() error {
			return errors.Join(
				sec.says(w.Addr, "slaves=1,sentinels=3", "INFO", "sentinel"),
				sec.tell(w.Addr, "SENTINEL", "CKQUORUM", s.Name))
		})
	}
	s.URL = sec.URL("redis+sentinel", addrs, "/"+s.Name, "sentinel_auth=true")
	t.Logf("backend: Sentinels at %s", strings.Join(addrs, ","))
	return s
}

// Master returns the node that is the master according to the Sentinels, or nil.
func (s *Sentinels) Master() *Server {
	for _, w := range s.Sentinels {
		c := s.secured.Admin(w.Addr)
		pair, err := c.Do(context.Background(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.Name).StringSlice()
		c.Close()
		if err != nil || len(pair) != 2 {
			continue
		}
		for _, n := range s.Nodes {
			if n.Addr == net.JoinHostPort(pair[0], pair[1]) {
				return n
			}
		}
	}
	return nil
}

// watch starts a Sentinel.
func watch(t testing.TB, path string, sec *Security, name, host, port string) *Server {
	t.Helper()
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	own, ownPort := freePort(t)
	text := strings.Join(append([]string{
		"sentinel monitor " + name + " " + host + " " + port + " 2",
		"sentinel down-after-milliseconds " + name + " 500",
		"sentinel failover-timeout " + name + " 3000",
		"sentinel parallel-syncs " + name + " 1",
	}, append(sec.sentinel(name, ownPort), "")...), "\n")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{config, "--sentinel", "--bind", own}
	if sec == nil {
		args = append(args, "--port", ownPort)
	}
	return newProcess(t, path, sec, net.JoinHostPort(own, ownPort), args)
}

// Cluster is a Redis Cluster of processes of this test. A node that is silent for a second is taken for
// dead, and a replica, if there is one, takes its place.
type Cluster struct {
	URL   string // redis+cluster://host:port,…
	Nodes []*Server

	t       testing.TB
	secured *Security
}

// RedisCluster starts a Cluster of three masters, each with as many replicas: the masters come first in
// Nodes. Without a binary of the product, version 7 or later, on the PATH it skips the test, or fails it
// where TETHER_TEST_REQUIRE_REAL is 1.
func RedisCluster(t testing.TB, product string, replicas int, args ...string) *Cluster {
	t.Helper()
	return SecureCluster(t, product, nil, replicas, args...)
}

// SecureCluster is RedisCluster with TLS and users, if sec is not nil.
func SecureCluster(t testing.TB, product string, sec *Security, replicas int, args ...string) *Cluster {
	t.Helper()
	const masters = 3
	path := modern(t, product)
	c := &Cluster{t: t, secured: sec}
	var addrs []string
	for range masters * (1 + replicas) {
		_, bus := freePort(t)
		c.Nodes = append(c.Nodes, launch(t, path, sec, append([]string{
			"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "1000",
			"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"}, args...)...))
		addrs = append(addrs, c.Nodes[len(c.Nodes)-1].Addr)
	}
	for i, n := range c.Nodes {
		must(t, c.secured.tell(n.Addr, "CLUSTER", "SET-CONFIG-EPOCH", i+1))
		if i < masters {
			must(t, c.secured.tell(n.Addr, "CLUSTER", "ADDSLOTSRANGE", i*16384/masters, (i+1)*16384/masters-1))
		}
	}
	c.meet()
	for i := masters; i < len(c.Nodes); i++ {
		must(t, c.secured.tell(c.Nodes[i].Addr, "CLUSTER", "REPLICATE", c.ID(i%masters)))
	}
	for i := masters; i < len(c.Nodes); i++ {
		await(t, "a replica to follow its master", func() error {
			return c.secured.says(c.Nodes[i].Addr, "master_link_status:up", "INFO", "replication")
		})
	}
	c.AwaitOK()
	c.URL = sec.URL("redis+cluster", addrs, "")
	t.Logf("backend: Cluster at %s", strings.Join(addrs, ","))
	return c
}

// meet returns when all nodes know each other. A node gives up an introduction that takes a second, so they are
// introduced anew.
func (c *Cluster) meet() {
	c.t.Helper()
	var again time.Time
	for i := range c.Nodes {
		await(c.t, "the Cluster's nodes to know each other", func() error {
			err := c.secured.says(c.Nodes[i].Addr, "cluster_known_nodes:"+strconv.Itoa(len(c.Nodes)), "CLUSTER", "INFO")
			if err == nil || time.Now().Before(again) {
				return err
			}
			for j, n := range c.Nodes[1:] {
				host, port, _ := net.SplitHostPort(n.Addr)
				must(c.t, c.secured.tell(c.Nodes[0].Addr, "CLUSTER", "MEET", host, port, c.busPort(j+1)))
			}
			again = time.Now().Add(2 * time.Second)
			return err
		})
	}
}

func (c *Cluster) busPort(i int) string {
	client := c.secured.Admin(c.Nodes[i].Addr)
	defer client.Close()
	port, err := client.ConfigGet(context.Background(), "cluster-port").Result()
	must(c.t, err)
	return port["cluster-port"]
}

// ID returns the name of a node in its Cluster.
func (c *Cluster) ID(i int) string {
	client := c.secured.Admin(c.Nodes[i].Addr)
	defer client.Close()
	id, err := client.Do(context.Background(), "CLUSTER", "MYID").Text()
	must(c.t, err)
	return id
}

// AwaitOK waits until every node that answers says that the Cluster serves.
func (c *Cluster) AwaitOK() {
	c.t.Helper()
	for _, n := range c.Nodes {
		await(c.t, "the Cluster to serve", func() error {
			err := c.secured.says(n.Addr, "cluster_state:ok", "CLUSTER", "INFO")
			if refused := (*net.OpError)(nil); errors.As(err, &refused) {
				return nil // it is down
			}
			return err
		})
	}
}

// MoveSlot gives an empty slot to another master, as a resharding does.
func (c *Cluster) MoveSlot(slot, from, to int) error {
	target := c.ID(to)
	// The new owner first, then the old one.
	err := errors.Join(
		c.secured.tell(c.Nodes[to].Addr, "CLUSTER", "SETSLOT", slot, "IMPORTING", c.ID(from)),
		c.secured.tell(c.Nodes[from].Addr, "CLUSTER", "SETSLOT", slot, "MIGRATING", target))
	if err == nil {
		err = c.moveKeys(slot, from, to)
	}
	return errors.Join(err,
		c.secured.tell(c.Nodes[to].Addr, "CLUSTER", "SETSLOT", slot, "NODE", target),
		c.secured.tell(c.Nodes[from].Addr, "CLUSTER", "SETSLOT", slot, "NODE", target))
}

func (c *Cluster) moveKeys(slot, from, to int) error {
	client := c.secured.Admin(c.Nodes[from].Addr)
	defer client.Close()
	host, port, _ := net.SplitHostPort(c.Nodes[to].Addr)
	for {
		keys, err := client.ClusterGetKeysInSlot(context.Background(), slot, 100).Result()
		if err != nil || len(keys) == 0 {
			return err
		}
		for _, key := range keys {
			args := []any{"MIGRATE", host, port, key, 0, 1000, "REPLACE"}
			if c.secured != nil {
				args = append(args, "AUTH", c.secured.admin)
			}
			if err := client.Do(context.Background(), args...).Err(); err != nil {
				return err
			}
		}
	}
}

// modern returns the path of a product whose version is 7 or later.
func modern(t testing.TB, product string) string {
	t.Helper()
	give := t.Skipf
	if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" && product == RedisProduct {
		give = t.Fatalf
	}
	path, err := exec.LookPath(product)
	if err != nil {
		give("backend: needs a %s on the PATH: %v", product, err)
	}
	out, err := exec.Command(path, "--version").Output() // "Redis server v=7.0.15 sha=…"
	if err != nil {
		give("backend: %s --version: %v", path, err)
	}
	_, version, _ := strings.Cut(string(out), "v=")
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		give("backend: needs a %s of version 7 or later, this is %.60q", product, out)
	}
	return path
}

// launch starts a Redis without persistence but for what a Cluster must remember.
func launch(t testing.TB, path string, sec *Security, args ...string) *Server {
	t.Helper()
	host, port := freePort(t)
	all := append(redisServer.args(host, port, t.TempDir()), sec.args(port)...)
	return newProcess(t, path, sec, net.JoinHostPort(host, port), append(all, args...))
}

func newProcess(t testing.TB, path string, sec *Security, addr string, args []string) *Server {
	t.Helper()
	proc := &process{path: path, args: args, addr: addr, ready: sec.ready}
	s := &Server{
		URL: sec.URL("redis", []string{addr}, ""), Addr: addr, Kind: Binary, t: t, name: filepath.Base(path),
		start: proc.start, stop: proc.stop, pause: proc.pause, resume: proc.resume,
	}
	s.begin()
	return s
}

// SecureRedis is one server with TLS and a user.
func SecureRedis(t testing.TB, product string, sec *Security) *Server {
	t.Helper()
	return launch(t, modern(t, product), sec)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("backend: %v", err)
	}
}

// await asks again and again until there is no error.
func await(t testing.TB, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); ; <-time.After(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("backend: waited in vain for %s: %v", what, err)
		}
	}
}
