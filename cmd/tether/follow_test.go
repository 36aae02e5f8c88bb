package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"tether/engine"
	"tether/follow"
	"tether/internal/backend"
	"tether/internal/client"
)

// TestWhatBecameOfAnEvent from a shell, on both brokers.
func TestWhatBecameOfAnEvent(t *testing.T) {
	t.Parallel()
	for name, broker := range brokers(t) {
		t.Run(name, func(t *testing.T) {
			shell := []string{"TETHER_BROKER=" + broker.URL, "TETHER_PREFIX=" + t.Name()}
			operator := append(shell, "TETHER_ADMIN_KEYS="+adminKey)
			environ := append(operator, enough...)
			a := start(t, environ, "--node=a").ready()
			b := start(t, environ, "--node=b", "--client.write-timeout=5m", "--client.kernel-buffer=4096").ready()
			phone := dialUser(t, client.Options{URL: a.url()}, "42")
			dialUser(t, client.Options{URL: b.url()}, "42")
			followed := func(args ...string) (follow.Event, string, int) {
				t.Helper()
				out, errs, code := tether(t, operator, append([]string{"emit", "--follow", "--json", "--timeout=30s"}, args...)...)
				var r follow.Report
				if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Events) != 1 {
					t.Fatalf("%q: got %d, %s%s", args, code, out, errs)
				}
				return r.Events[0], errs, code
			}
			ev, _, code := followed("user:42", "/users/ping", `"secret"`, "--wait=30s")
			if code != exitDone || len(ev.Arrivals) != 2 || ev.Arrivals[0].Node != "a" || ev.Arrivals[1].Node != "b" || ev.By != "tether emit" {
				t.Fatalf("two devices: got %d, %+v", code, ev)
			}
			for _, arrival := range ev.Arrivals {
				if c := arrival.Clients; len(c) != 1 || c[0].Outcome != engine.Written.String() || c[0].Written.Before(arrival.Taken) || c[0].Transport != "websocket" {
					t.Errorf("on %s: %+v", arrival.Node, c)
				}
			}
			next(t, phone)
			if ev, _, code := followed("user:nobody", "x"); code != exitNobody || len(ev.Arrivals) != 0 {
				t.Errorf("nobody: got %d, %+v", code, ev)
			}
			if name == "NATS" { // the rest does not depend on the broker, and each command takes two seconds
				return
			}
			ev, _, code = followed("user:42", "sure?", "--ack", "--wait=3s")
			if code != exitDone || len(ev.Arrivals) != 2 || ev.Arrivals[0].Clients[0].Outcome != engine.Unanswered.String() {
				t.Errorf("clients that do not answer: got %d, %+v", code, ev)
			}

			stuck(t, b, "43", "")
			large := `"` + strings.Repeat("x", 500_000) + `"`
			for began := time.Now(); ; { // more than the kernel takes
				a.post("/emit", testEmitKey, `{"user":"43","event":"x","args":[`+large+`]}`)
				ev, _, code = followed("user:43", "x", "--wait=0s")
				if len(ev.Arrivals) == 1 && len(ev.Arrivals[0].Clients) == 1 && ev.Arrivals[0].Clients[0].Outcome == engine.Queued.String() {
					break
				} else if time.Since(began) > patience {
					t.Fatalf("a stuck client: got %d, %+v", code, ev)
				}
			}

			out, errs, code := tether(t, shell, "emit", "user:42", "x", "--follow")
			if code != exitMistake || !strings.Contains(errs, "admin.keys") {
				t.Errorf("without a key: got %d, %s%s", code, out, errs)
			}
			out, errs, code = tether(t, append(shell, "TETHER_ADMIN_KEYS=another-key-of-16"), "emit", "user:42", "x", "--follow", "--wait=0s")
			if code != exitUnknown || strings.Count(errs, "refused") != 2 || strings.Contains(out, "NODE") {
				t.Errorf("with another key: got %d, %s%s", code, out, errs)
			}
			if _, errs, code := tether(t, operator, "emit", "user:42", "x", "--ack"); code != exitMistake || !strings.Contains(errs, "--follow") {
				t.Errorf("--ack alone: got %d, %s", code, errs)
			}
		})
	}
}

// TestWhatNodesEmitToAUserIsFollowedForAWhile.
func TestWhatNodesEmitToAUserIsFollowedForAWhile(t *testing.T) {
	t.Parallel()
	operator := []string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name(), "TETHER_ADMIN_KEYS=" + adminKey}
	a := start(t, append(operator, enough...), "--node=a").ready()
	b := start(t, append(operator, enough...), "--node=b").ready()
	phone := dialUser(t, client.Options{URL: b.url()}, "42")
	if _, errs, code := tether(t, operator, "follow", "user:42", "--for=0s"); code != exitMistake {
		t.Errorf("for no time: got %d, %s", code, errs)
	}
	out, errs, code := tether(t, operator, "follow")
	if code != exitNobody || out != "" {
		t.Errorf("nothing is followed yet: got %d, %s%s", code, out, errs)
	}

	var lines, warnings bytes.Buffer
	cmd := tetherCommand([]string{"follow", "user:42", "--for=1h", "--json"}, operator)
	cmd.Stderr = &warnings
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make(chan string, 1)
	go func() { // ends with the command
		line, _ := bufio.NewReader(pipe).ReadString('\n')
		first <- line
	}()
	var line string
	for n := 0; line == ""; n++ { // until the rule is there
		a.post("/emit", testEmitKey, fmt.Sprintf(`{"user":"42","event":"/users/ping","args":[%d]}`, n))
		next(t, phone)
		select {
		case line = <-first:
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	var ev follow.Event
	if err := json.Unmarshal([]byte(line), &ev); err != nil {
		t.Fatalf("%v: %s%s%s", err, line, lines.String(), warnings.String())
	}
	if ev.By != "a" || ev.Name != "/users/ping" || len(ev.Arrivals) != 1 || ev.Arrivals[0].Node != "b" || ev.Arrivals[0].Clients[0].Outcome != engine.Written.String() {
		t.Errorf("got %+v", ev)
	}
	out, errs, code = tether(t, operator, "follow")
	if code != exitDone || !strings.Contains(out, "/users/ping to user:42, emitted ") || !strings.Contains(out, "written") {
		t.Errorf("the latest: got %d, %s%s", code, out, errs)
	}
}
