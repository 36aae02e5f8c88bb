package backend

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"
)

// NATSRoutes says how the servers of a cluster reach each other. The zero value is the default.
type NATSRoutes struct {
	// Via returns the address at which the others reach the route port of a server at addr, for a
	// proxy in between. Nil: addr itself.
	Via func(addr string) string

	// Args are added to the command line of each server.
	Args []string

	// Options are what a client needs to connect, if Args ask for it.
	Options []natsio.Option
}

// NATSCluster returns a cluster of NATS servers that can each be stopped, and restarted at the same
// address: processes where nats-server is on the PATH, else stand-ins. It returns when a message gets
// from each to each.
func NATSCluster(t testing.TB, size int, o NATSRoutes) []*Server {
	t.Helper()
	path, err := exec.LookPath(natsServer.name)
	if err == nil {
		return natsCluster(t, size, o, func(host, port string, args []string) *Server {
			return processAt(t, natsServer, path, host, port, args)
		})
	}
	if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
		t.Fatal("backend: no real nats-server on the PATH")
	}
	return NATSClusterStandIn(t, size, o)
}

// NATSClusterStandIn returns a cluster of servers inside this process, also where nats-server is on
// the PATH.
func NATSClusterStandIn(t testing.TB, size int, o NATSRoutes) []*Server {
	t.Helper()
	return natsCluster(t, size, o, func(host, port string, args []string) *Server {
		return standInAt(t, natsServer, host, port, args)
	})
}

func natsCluster(t testing.TB, size int, o NATSRoutes, start func(host, port string, args []string) *Server) []*Server {
	t.Helper()
	var local, reached []string
	for range size {
		addr := FreeAddress(t)
		local = append(local, addr)
		if o.Via != nil {
			addr = o.Via(addr)
		}
		reached = append(reached, addr)
	}
	routes := "nats://" + strings.Join(reached, ",nats://")
	var servers []*Server
	for i := range size {
		host, port := freePort(t)
		servers = append(servers, start(host, port, append([]string{
			"--cluster_name", "tether", "--cluster", "nats://" + local[i], "--cluster_advertise", reached[i],
			"--routes", routes,
		}, o.Args...)))
	}
	awaitRoutes(t, o.Options, servers)
	return servers
}

// AwaitRoutes returns when a message gets from each server to each.
func AwaitRoutes(t testing.TB, servers ...*Server) {
	t.Helper()
	awaitRoutes(t, nil, servers)
}

func awaitRoutes(t testing.TB, options []natsio.Option, servers []*Server) {
	t.Helper()
	deadline := time.Now().Add(2 * startTimeout)
	var conns []*natsio.Conn
	for _, s := range servers {
		c, err := natsio.Connect(s.URL, options...)
		for err != nil && time.Now().Before(deadline) { // a server that has only just started may close it
			time.Sleep(20 * time.Millisecond)
			c, err = natsio.Connect(s.URL, options...)
		}
		if err != nil {
			t.Fatalf("backend: %v: %v", s, err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	for i, to := range conns {
		for j, from := range conns {
			sub, err := to.SubscribeSync(natsio.NewInbox())
			if err != nil {
				t.Fatalf("backend: %v: %v", servers[i], err)
			}
			for ok := false; !ok; {
				if err := from.Publish(sub.Subject, nil); err != nil {
					t.Fatalf("backend: %v: %v", servers[j], err)
				}
				_, err := sub.NextMsg(20 * time.Millisecond)
				if ok = err == nil; !ok && time.Now().After(deadline) {
					t.Fatalf("backend: no route from %v to %v", servers[j], servers[i])
				}
			}
		}
	}
}
