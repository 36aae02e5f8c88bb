package soak

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/backend"
	"tether/internal/ledger"
	"tether/internal/long"
	"tether/transport"
)

// A host that is unplugged: two network namespaces with a cable between them, which this process may
// pull. It runs itself again in the first, with the broker and a node in it; the second has another node.

const (
	namespaceEnv = "TETHER_SOAK_NAMESPACE"
	hereIP       = "10.213.77.1"
	thereIP      = "10.213.77.2"
)

// ip runs a command of iproute2.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestAHostThatIsUnplugged(t *testing.T) {
	if os.Getenv(namespaceEnv) != "" {
		ip(t, "link", "set", "lo", "up")
		for name, start := range map[string]func() *backend.Server{
			"redis": func() *backend.Server { return backend.Redis(t, "--bind", "0.0.0.0", "--protected-mode", "no") },
			"nats":  func() *backend.Server { return backend.NATS(t, "-a", "0.0.0.0") },
		} {
			t.Run(name, func(t *testing.T) { unplugHost(t, start()) })
		}
		return
	}
	long.Only(t)
	for _, tool := range []string{"ip", "nsenter", "redis-server", "nats-server"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestAHostThatIsUnplugged$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Skipf("no network namespace can be made here: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if err != nil || strings.Contains(line, "figure: ") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// hostWithACable runs a node on a host of its own, a network namespace, whose only way here is a cable.
func hostWithACable(t *testing.T, book *ledger.Ledger, brokerURL string) *child {
	u, err := url.Parse(brokerURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = net.JoinHostPort(hereIP, u.Port())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell waits for its cable, and then becomes the node.
	cmd := exec.Command("sh", "-c", `read -r plugged && exec "$0"`, exe)
	cmd.Env = append(os.Environ(), childEnv+"="+u.String(), listenEnv+"="+thereIP+":0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	there := runChild(t, gapsOf(book, "there"), cmd, func(in io.Writer) {
		pid := strconv.Itoa(cmd.Process.Pid)
		inside := func(args ...string) {
			t.Helper()
			args = append([]string{"-t", pid, "-n", "ip"}, args...)
			if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
				t.Fatalf("nsenter %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
		ip(t, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", pid)
		ip(t, "addr", "add", hereIP+"/30", "dev", "cable")
		ip(t, "link", "set", "cable", "up")
		inside("addr", "add", thereIP+"/30", "dev", "cable")
		inside("link", "set", "cable", "up")
		inside("link", "set", "lo", "up")
		fmt.Fprintln(in, "plugged")
	})
	t.Cleanup(func() { exec.Command("ip", "link", "del", "cable").Run() }) // gone already with its peer, perhaps
	return there
}

// connected counts the clients whose connection has not ended.
func connected(clients []*client) (n int) {
	for _, c := range clients {
		select {
		case <-c.done:
		default:
			n++
		}
	}
	return n
}

func unplugHost(t *testing.T, s *backend.Server) {
	r := newRig(t, s.URL, s.Addr, 1, 2*time.Second, hub.Options{}, transport.Options{PingInterval: 2 * time.Second, PingTimeout: 2 * time.Second})
	p := r.publishers()[1]
	there := hostWithACable(t, r.book, s.URL)
	clients := make([]*client, 20)
	for i := range clients {
		clients[i] = newClient(r.book, "there", there.addr, "there"+strconv.Itoa(i))
		if err := clients[i].start(webSocket); err != nil {
			t.Fatal(err)
		}
	}
	names := users(20)
	r.populate(names)
	stop := make(chan struct{})
	end := r.load(names, stop, time.Millisecond)
	r.flow()
	each1 := func(ok func(receipt hub.Receipt, err error) bool) func() bool {
		return func() bool {
			var missed atomic.Int64
			each(len(clients), len(clients), func(i int) {
				if receipt, err := r.emit(p, room("there"+strconv.Itoa(i))); !ok(receipt, err) {
					missed.Add(1)
				}
			})
			return missed.Load() == 0
		}
	}
	nobody := each1(r.uncounted)
	somebody := each1(func(receipt hub.Receipt, err error) bool { return err == nil && receipt.Nodes > 0 })
	must(t, "users of the other host are counted", somebody)
	ip(t, "link", "set", "cable", "down")
	unplugged := time.Now()
	took, in := within(long.Limit(ghostTime), nobody)
	if !in {
		t.Errorf("users of a host that is unplugged are counted after %v", took)
	}
	for i := 0; time.Since(unplugged) < 8*time.Second; i++ {
		r.emit(p, room("there"+strconv.Itoa(i%len(clients))))
		<-time.After(20 * time.Millisecond)
	}
	ip(t, "link", "set", "cable", "up")
	back, in := within(wait, func() bool { return r.book.Gaps("there") > 0 })
	if !in {
		t.Errorf("the other host has reported no gap %v after it was plugged in", back)
	}
	// Its clients answered no pings meanwhile: they have been let go. New ones are reached.
	again := make([]*client, len(clients))
	each(len(again), len(again), func(i int) {
		again[i] = newClient(r.book, "there", there.addr, "there"+strconv.Itoa(i))
		must(t, "a client comes back", func() bool { return again[i].start(webSocket) == nil })
	})
	must(t, "users of the other host are counted again", somebody)
	close(stop)
	slowest, _ := end()
	figure(t, "unplugged host", "nobody is counted after %v; a gap was reported %v after it was plugged in again, %d of %d clients had kept their connection; the slowest emit to others meanwhile took %v; %v",
		took.Round(time.Millisecond), back.Round(time.Millisecond), connected(clients), len(clients), slowest.Round(time.Millisecond), r.settle())
	for _, c := range append(clients, again...) {
		c.hangUp(false)
	}
}
