package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/examples/internal/exampletest"
	"tether/internal/backend"
)

// childEnv makes this test binary a server, which can be killed. It ends with its standard input.
const childEnv = "TETHER_TEST_CONFORMANCE"

func serveChild() {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // until the process ends
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := runAtOnce(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startChild starts a server in a process of its own, and returns its URL and what kills it. What it prints later goes to
// printed, until it has ended.
func startChild(t *testing.T, printed func(line string), args ...string) (base string, kill func()) {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), childEnv+"=1"), t.Output()
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		<-read
		cmd.Wait()
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(stdout)
	lines.Scan()
	addr, ok := strings.CutPrefix(lines.Text(), "listening on ")
	go func() { // kill waits for it
		defer close(read)
		for lines.Scan() {
			printed(lines.Text())
		}
	}()
	if !ok {
		t.Fatalf("the server prints %q, %v", lines.Text(), lines.Err())
	}
	return "http://" + addr, kill
}

// TestAClientOfAKilledServerMissesNothing: it comes back to another server, to what was emitted meanwhile.
func TestAClientOfAKilledServerMissesNothing(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]func(t *testing.T) *backend.Server{
		"Redis": func(t *testing.T) *backend.Server { return backend.Redis(t) },
		"NATS":  func(t *testing.T) *backend.Server { return backend.JetStream(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := server(t)
			if name == "Redis" && s.Kind == backend.StandIn {
				t.Skip("a stand-in keeps no log")
			}
			flags := []string{"-broker", s.URL, "-recovery", "2m", "-recovery-log", "-node"}
			a := start(t, append(flags, "A")...)
			b, kill := startChild(t, func(string) {}, append(flags, "B")...)
			awaitMembers(t, a, true)
			emit := func(n int) {
				t.Helper()
				if status, got := exampletest.Post(t, a+"/emit", fmt.Sprintf(`{"room":"r","event":"n","args":[%d]}`, n)); status != http.StatusOK {
					t.Fatalf("emit: %d %s", status, got)
				}
			}

			c := exampletest.Connect(t, b, "")
			was := c.Next()
			var session struct{ PID string }
			if err := json.Unmarshal([]byte(strings.TrimPrefix(was, "40")), &session); err != nil || session.PID == "" {
				t.Fatalf("connected with %s, %v", was, err)
			}
			c.Want(`42["welcome",…`)
			c.Send(`421["join","r"]`)
			c.Want(`431["ok"]`)
			emit(0)
			var first []any
			if err := json.Unmarshal([]byte(strings.TrimPrefix(c.Next(), "42")), &first); err != nil || len(first) != 3 {
				t.Fatalf("the first event is %v, %v", first, err)
			}
			kill()
			emit(1)
			awaitMembers(t, a, false)
			emit(2)

			auth := exampletest.JSON(map[string]any{"pid": session.PID, "offset": first[2]})
			c = exampletest.Connect(t, a, auth)
			c.Want(was, `42["n",1,…`, `42["n",2,…`)
			c.Send(`421["node"]`)
			c.Want(`431["A"]`)
			emit(3)
			c.Want(`42["n",3,…`)
		})
	}
}

func TestTheLogIsLongEnoughForTheWindow(t *testing.T) {
	for _, row := range []struct {
		url    string
		window time.Duration
		want   string
	}{
		{"redis://host", 2 * time.Minute, "redis://host?log=4m0s"},
		{"redis://host", time.Second, "redis://host?log=10s"},
		{"redis+cluster://a:1,b:2/?prefix=p", time.Minute, "redis+cluster://a:1,b:2/?prefix=p&log=2m0s"},
		{"nats://host?log=1h", time.Minute, "nats://host?log=1h"},
		{"nats://host?log_length=5", time.Minute, "nats://host?log_length=5&log=2m0s"},
		{"memory://", time.Minute, "memory://?log=2m0s"},
	} {
		if got := logged(row.url, row.window); got != row.want {
			t.Errorf("%s: %s, want %s", row.url, got, row.want)
		}
	}
	start(t, "-recovery", "1s", "-recovery-log") // it is what the hub asks for
}
