//go:build unix

package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/cmd/tether/internal/server"
	"tether/internal/backend"
	"tether/internal/client"
)

// TestAFrozenNodeIsUnknown: NATS still has its subscription, and nobody acknowledges.
func TestAFrozenNodeIsUnknown(t *testing.T) {
	t.Parallel()
	nats := backend.NATS(t)
	environ := []string{"TETHER_BROKER=" + nats.URL, "TETHER_PREFIX=" + t.Name()}
	p := start(t, append(environ, enough...)).ready()
	dialUser(t, client.Options{URL: p.url()}, "42")
	p.signal(syscall.SIGSTOP)
	for _, x := range []struct {
		args []string
		says string
	}{{[]string{"user:42", "x"}, "the broker cannot tell"}, {[]string{"user:42", "x", "--json"}, `{"nodes":null}`}} {
		eventually(t, "a receipt is unknown", func() bool { // the broker itself may be silent on a busy machine
			says, code := emitted(t, environ, x.args...)
			if code != exitFailed && (says != x.says || code != exitUnknown) {
				t.Fatalf("got %q and %d", says, code)
			}
			return code == exitUnknown
		})
	}
}

// TestAFrozenNodeIsNamedWhereAnEventIsFollowed: the receipt is a lower bound, and the command begins when the node is silent.
func TestAFrozenNodeIsNamedWhereAnEventIsFollowed(t *testing.T) {
	t.Parallel()
	environ := append([]string{"TETHER_BROKER=" + backend.NATS(t).URL, "TETHER_PREFIX=" + t.Name(), "TETHER_ADMIN_KEYS=" + adminKey}, enough...)
	a, b := start(t, environ, "--node=a").ready(), start(t, environ, "--node=b").ready()
	dialUser(t, client.Options{URL: a.url()}, "42")
	for began := time.Now(); ; { // its lease may end before a slow machine has begun the command
		b.signal(syscall.SIGSTOP)
		out, errs, code := tether(t, environ[:3], "emit", "user:42", "x", "--follow", "--timeout=20s")
		b.signal(syscall.SIGCONT)
		if code == exitUnknown && strings.Contains(errs, "b is missing: ") && strings.Contains(out, "\na ") {
			break
		} else if time.Since(began) > patience {
			t.Fatalf("got %d, %s%s", code, out, errs)
		}
		for nodes := ""; !strings.Contains(nodes, "\nb "); { // until it is back
			nodes, _, _ = tether(t, environ[:2], "nodes")
		}
	}
}

// TestAListOfNodesThatMayBeWrongIsPrinted, and then the reason: others count a node that does not answer.
func TestAListOfNodesThatMayBeWrongIsPrinted(t *testing.T) {
	t.Parallel()
	environ := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	start(t, environ, "--node=a").ready()
	b := start(t, environ, "--node=b").ready()
	for began := time.Now(); ; { // on a slow machine the command may not begin in time, or b's lease end before
		b.signal(syscall.SIGSTOP)
		out, errs, code := tether(t, environ[:2], "nodes", "--json", "--timeout=1s")
		b.signal(syscall.SIGCONT)
		if code == exitUnknown && strings.Contains(out, `"name":"a"`) && strings.Contains(out, `"doubt":"`) && strings.Contains(errs, "the list may be wrong: ") {
			return
		} else if time.Since(began) > patience {
			t.Fatalf("got %d, %s%s", code, out, errs)
		}
	}
}

// TestAFrozenNodeIsSeen: it is silent as long as it is on the list, and then gone.
func TestAFrozenNodeIsSeen(t *testing.T) {
	t.Parallel()
	environ := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	a, b := start(t, environ, "--node=a", "--admin.addr=127.0.0.1:0").ready(), start(t, environ, "--node=b").ready()
	other := func() (view server.NodeView, listed bool) {
		_, _, body := adminDo(t, "GET", a.adminURL()+"/api/cluster", "")
		var all server.ClusterView
		if err := json.Unmarshal([]byte(body), &all); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		for _, n := range all.Nodes {
			if n.Name == "b" {
				return n, true
			}
		}
		return view, false
	}
	for n, listed := other(); !listed || n.Status == nil; n, listed = other() {
		time.Sleep(10 * time.Millisecond)
	}
	b.signal(syscall.SIGSTOP)
	for n, listed := other(); listed; n, listed = other() {
		if n.Silent != "" {
			if strings.HasPrefix(n.Silent, "cluster:") {
				t.Errorf("the page says %q: with the name of a package", n.Silent)
			}
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, listed := other(); listed; _, listed = other() {
		time.Sleep(10 * time.Millisecond)
	}
	// A page and a terminal that begin now show it all the same.
	awaitNode(t, a, "that b is gone", func(server.NodeView) bool { return goneNames(t, a) == "b" })
	for began := time.Now(); ; {
		out, errs, _ := tether(t, environ[:2], "top", "--once")
		if strings.Contains(out, "gone since") && strings.Contains(out, "\nb ") {
			break
		} else if time.Since(began) > patience {
			t.Fatalf("tether top says %s%s", out, errs)
		}
	}
	b.signal(syscall.SIGCONT)
	for n, listed := other(); !listed || n.Status == nil; n, listed = other() {
		time.Sleep(10 * time.Millisecond)
	}
	for began := time.Now(); goneNames(t, a) != ""; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("after its return it is still gone")
		}
	}
}

// goneNames are the nodes that are gone, as the page says.
func goneNames(t *testing.T, p *process) (names string) {
	t.Helper()
	_, _, body := adminDo(t, "GET", p.adminURL()+"/api/cluster", "")
	var view server.ClusterView
	if err := json.Unmarshal([]byte(body), &view); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	for _, n := range view.Gone {
		names += n.Name
	}
	return names
}
