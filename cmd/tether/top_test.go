package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"tether/cmd/tether/internal/server"
	"tether/internal/backend"
	"tether/internal/client"
)

// TestATerminalShowsWhatThePageShows.
func TestATerminalShowsWhatThePageShows(t *testing.T) {
	t.Parallel()
	redis := backend.Redis(t)
	environ := append([]string{"TETHER_BROKER=" + redis.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	a, b := start(t, environ, "--node=a").ready(), start(t, environ, "--node=b").ready()
	dialUser(t, client.Options{URL: a.url()}, "42")
	var view server.ClusterView
	for deadline := time.Now().Add(patience); ; { // a busy node may answer too late
		view = server.ClusterView{}
		out, err := tetherCommand([]string{"top", "--json"}, environ[:2]).Output() // no keys are needed
		if err != nil || json.Unmarshal(out, &view) != nil || len(view.Nodes) != 2 {
			t.Fatalf("got %s (%v)", out, err)
		}
		if view.Nodes[0].Status != nil && view.Nodes[1].Status != nil || time.Now().After(deadline) {
			break
		}
	}
	if n := view.Nodes[0]; n.Name != "a" || n.Status == nil || n.Status.Connections != 1 || n.Status.Reason != "" || n.Silent != "" {
		t.Errorf("got %+v", n)
	}
	out, err := tetherCommand([]string{"top"}, environ[:2]).Output() // not to a terminal: once
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 4 || !strings.HasPrefix(lines[2], "a     1 ") || !strings.HasSuffix(lines[3], "ready") || !strings.Contains(lines[0], "nodes: 2  connections: 1") {
		t.Errorf("got %s (%v)", out, err)
	}
	_ = b
}

func TestTheScreenOfTopSaysWhatIsWrongWithANode(t *testing.T) {
	now := time.Now()
	node := func(name string, s *server.NodeStatus) *topNode {
		return &topNode{NodeView: server.NodeView{Name: name, Tag: name, Connections: 7, Status: s}, at: now}
	}
	fine := node("fine", &server.NodeStatus{Connections: 7, Emitted: 30, Uptime: 61})
	fine.before, fine.beforeAt = &server.NodeStatus{Emitted: 10}, now.Add(-2*time.Second)
	stuck := node("slow", &server.NodeStatus{Queued: 3 << 20, Behind: 1, Slowest: []server.SlowClient{{Connection: "c0ffee", Bytes: 5 << 10}}, Warnings: []string{"a warning"}})
	sick := node("sick", &server.NodeStatus{Reason: "the broker does not answer"})
	frozen := node("frozen", nil)
	frozen.Silent = "it has not answered"
	leaving := node("leaving", &server.NodeStatus{Reason: "draining"})
	leaving.Draining = true
	dead := node("dead", &server.NodeStatus{})
	dead.gone = now
	screen := top{at: now, nodes: map[string]*topNode{}}
	for _, n := range []*topNode{fine, stuck, sick, frozen, leaving, dead} {
		screen.nodes[n.Tag] = n
	}
	text := screen.String()
	got := map[string]string{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, " ")
		got[name] = strings.Join(strings.Fields(rest), " ")
	}
	for name, want := range map[string]string{
		"fine":    "7 10.0 0.0 0.0 0 B 0 0 0 1m1s ready",
		"slow":    "0 - - - 3.0 MiB for 1 0 0 0 0s ready; a warning",
		"sick":    "0 - - - 0 B 0 0 0 0s not ready: the broker does not answer",
		"frozen":  "7 - - - - - - - - silent: it has not answered",
		"leaving": "0 - - - 0 B 0 0 0 0s draining",
		"dead":    "7 - - - - - - - - gone since " + now.Format(time.TimeOnly),
		"c0ffee":  "slow 5.0 KiB",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if !strings.Contains(text, "nodes: 5  connections: 35\n") {
		t.Errorf("got %s", text)
	}
}

func TestANodeThatHasStartedAgainIsNotGone(t *testing.T) {
	now := time.Now()
	killed := server.NodeView{Name: "a", Tag: "1", Since: now.Add(-time.Hour)}
	other := server.NodeView{Name: "b", Tag: "2", Since: now.Add(-time.Hour), Status: &server.NodeStatus{
		Gone: []server.GoneNode{{Name: "a", Tag: "0", At: now.Add(-time.Minute)}}, // before this top began
	}}
	screen := top{at: now}
	gone := func() int { return strings.Count(screen.String(), "gone since") }
	screen.see([]server.NodeView{killed, other})
	screen.see([]server.NodeView{other})
	if got := gone(); got != 2 {
		t.Errorf("after the kill %d nodes are gone, want 2: %s", got, screen.String())
	}
	again := server.NodeView{Name: "a", Tag: "3", Since: now.Add(-3 * time.Second)} // the lease of the one before has ended since
	screen.see([]server.NodeView{again, other})
	if got := gone(); got != 0 {
		t.Errorf("when it is back %d nodes are gone: %s", got, screen.String())
	}
}
