package main

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"tether/broker"
	"tether/broker/drivers"
	"tether/broker/seal"
	"tether/internal/backend"
	"tether/internal/client"
)

// TestStrangersAtTheBrokerAreNobody: on a real Redis and a real NATS, a program that can publish and subscribe
// there can neither read, nor forge, nor repeat.
func TestStrangersAtTheBrokerAreNobody(t *testing.T) {
	t.Parallel()
	key := seal.GenerateKey()
	for name, server := range brokers(t) {
		t.Run(name, func(t *testing.T) {
			open := append([]string{"TETHER_BROKER=" + server.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
			environ := append([]string{"TETHER_KEY=" + key.Encode(), "TETHER_SEAL=true"}, open...)
			a, b := start(t, environ, "--node=a").ready(), start(t, environ, "--node=b").ready()
			if line := a.waitLog("messages to other nodes have a key"); line["key"] != key.ID() || line["sealed"] != true {
				t.Errorf("the log says %v", line)
			}
			c := dialUser(t, client.Options{URL: a.url()}, "42")

			room := t.Name() + ":/,user:42"
			stranger, heard := strangerAt(t, server.URL, room)
			if got := b.post("/emit", testEmitKey, `{"user":"42","event":"one","args":["a secret"]}`); got.status != http.StatusOK {
				t.Fatalf("got %v", got)
			}
			if got := next(t, c); got != `one ["a secret"]` {
				t.Errorf("got %s", got)
			}
			m := <-heard
			if bytes.Contains(m.Data, []byte("secret")) {
				t.Errorf("the stranger has read %q", m.Data)
			}
			other := strings.Replace(room, "42", "43", 1)
			forAnother := dialUser(t, client.Options{URL: a.url()}, "43")
			for _, again := range []broker.Message{m, {Subject: other, Data: m.Data}, {Subject: room, Data: m.Data[:len(m.Data)-1]}} {
				if _, err := stranger.Publish(t.Context(), again); err != nil {
					t.Fatal(err)
				}
			}
			for _, keys := range [][]string{nil, {"TETHER_KEY=" + seal.GenerateKey().Encode()}} {
				if says, code := emitted(t, append(keys, open[:2]...), "user:42", "forged"); code != exitDone { // it is counted, and refused
					t.Errorf("got %q and %d", says, code)
				}
			}
			if says, code := emitted(t, environ[:4], "everyone", "last"); code != exitDone {
				t.Errorf("got %q and %d", says, code)
			}
			for _, c := range []*client.Client{c, forAnother} {
				if got := next(t, c); got != "last []" {
					t.Errorf("got %s, want what has the key", got)
				}
			}
			for range 4 { // repeated, of another subject or changed, without a key, with another one
				if line := a.waitLog("messages from the broker are refused"); line["why"] == "" || line["do"] == "" {
					t.Errorf("the log says %v", line)
				}
			}
		})
	}
}

// strangerAt subscribes to a subject, and returns what comes there.
func strangerAt(t *testing.T, url, subject string) (broker.Broker, <-chan broker.Message) {
	t.Helper()
	b, err := drivers.Mux().Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan broker.Message, 16)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { // received in the cleanup
		ended <- b.Run(ctx, broker.Handler{Deliver: func(m broker.Message) { heard <- m.Own() }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		b.Close()
	})
	if errs := b.Subscribe(t.Context(), subject); errs != nil {
		t.Fatal(errs)
	}
	return b, heard
}

// TestAWrongKeyIsSeenByOperators: in the log, at /readyz, and by the commands.
func TestAWrongKeyIsSeenByOperators(t *testing.T) {
	t.Parallel()
	key, wrong := seal.GenerateKey(), seal.GenerateKey()
	open := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	right := append([]string{"TETHER_KEY=" + key.Encode()}, open...)
	a := start(t, right, "--node=a").ready()
	start(t, right, "--node=c").ready()
	for name, environ := range map[string][]string{"another": {"TETHER_KEY=" + wrong.Encode()}, "none": nil} {
		environ = append(environ, open...)
		text, err := tetherCommand([]string{"nodes"}, environ).CombinedOutput()
		if err == nil || !strings.Contains(string(text), "they have a key that this node does not have") {
			t.Errorf("%s: tether nodes: got %s, %v", name, text, err)
		}
		p := start(t, environ, "--node=b")
		if line := p.waitLog("messages from the broker are refused"); line["why"] != "they have a key that this node does not have" || line["key"] != key.ID() {
			t.Errorf("%s: the log says %v", name, line)
		}
		p.until("/readyz", http.StatusServiceUnavailable)
		if got := p.get("/readyz"); !strings.Contains(got.body, "they have a key that this node does not have") {
			t.Errorf("%s: got %v", name, got)
		}
		p.signal(syscall.SIGTERM)
		p.exit()
	}
	a.ready()
	text, err := tetherCommand([]string{"check-config"}, append([]string{"TETHER_KEY=" + key.Encode()}, open...)).CombinedOutput()
	if err != nil || !strings.Contains(string(text), key.ID()) {
		t.Errorf("tether check-config: got %s, %v", text, err)
	}
	text, err = tetherCommand([]string{"check-config"}, append([]string{"TETHER_KEY=hunter2"}, open...)).CombinedOutput()
	if err == nil || !strings.Contains(string(text), "tether key makes") || strings.Contains(string(text), "hunter2") {
		t.Errorf("tether check-config with a bad key: got %s, %v", text, err)
	}
	text, err = tetherCommand([]string{"check-config"}, append([]string{"TETHER_SEAL=true"}, open...)).CombinedOutput()
	if err == nil || !strings.Contains(string(text), "without a key") {
		t.Errorf("tether check-config without a key: got %s, %v", text, err)
	}
}

// TestTheFirstKeyComesNodeByNode: the steps of docs/trust.md, with nodes that are restarted one by one. No
// event is lost on the way, and at the end strangers are refused.
func TestTheFirstKeyComesNodeByNode(t *testing.T) {
	t.Parallel()
	key := seal.GenerateKey()
	open := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	steps := [][]string{
		nil,
		{"TETHER_KEY=" + key.Encode(), "TETHER_PLAIN=send"},
		{"TETHER_KEY=" + key.Encode(), "TETHER_PLAIN=accept"},
		{"TETHER_KEY=" + key.Encode()},
	}
	nodes := []*process{start(t, open, "--node=0").ready(), start(t, open, "--node=1").ready()}
	for _, step := range steps[1:] {
		for i := range nodes {
			nodes[i].signal(syscall.SIGTERM)
			if code := nodes[i].exit(); code != exitDone {
				t.Fatalf("exit code %d", code)
			}
			nodes[i] = start(t, append(step, open...), "--node="+string(rune('0'+i))).ready()
			clients := []*client.Client{dialUser(t, client.Options{URL: nodes[0].url()}, "42"), dialUser(t, client.Options{URL: nodes[1].url()}, "42")}
			for _, n := range nodes {
				if got := n.post("/emit", testEmitKey, `{"user":"42","event":"x"}`); got.body != `{"nodes":2}` {
					t.Errorf("got %v", got)
				}
				for _, c := range clients {
					if got := next(t, c); got != "x []" {
						t.Errorf("got %s", got)
					}
				}
			}
			for _, c := range clients {
				c.Close()
			}
		}
	}
	c := dialUser(t, client.Options{URL: nodes[0].url()}, "42")
	emitted(t, open[:2], "user:42", "forged")
	emitted(t, append(steps[3], open[:2]...), "user:42", "last")
	if got := next(t, c); got != "last []" {
		t.Errorf("got %s", got)
	}
}
