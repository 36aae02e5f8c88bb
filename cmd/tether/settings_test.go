package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"tether/cmd/tether/internal/config"
)

// TestSettingsOfClientsAreSeenByThem: a few that a client meets, on the wire of the program itself.
func TestSettingsOfClientsAreSeenByThem(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--auth.mode=none", "--namespaces=/,/a,/b", "--client.path=/io/", "--client.cookie=node",
		"--client.upgrade=false", "--relay.on=false", "--limits.namespaces=1", "--limits.auth=64").ready()
	if got := p.get("/socket.io/?EIO=4&transport=polling"); got.status != http.StatusNotFound {
		t.Errorf("the usual path: got %v", got)
	}
	res, err := http.Get(p.url() + "/io/?EIO=4&transport=polling")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var opened struct {
		SID      string
		Upgrades []string
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || len(body) == 0 {
		t.Fatalf("got %q, %v", body, err)
	}
	if err := json.Unmarshal(body[1:], &opened); err != nil || len(opened.Upgrades) != 0 {
		t.Errorf("got %s, %v", body, err)
	}
	if len(opened.SID) != 20 {
		t.Errorf("the ID of the session is %s: it names its node", opened.SID)
	}
	if got := res.Header.Get("Set-Cookie"); !strings.HasPrefix(got, "node="+opened.SID+";") {
		t.Errorf("the cookie: got %q", got)
	}
	session := "/io/?EIO=4&transport=polling&sid=" + opened.SID
	for _, c := range []struct{ packet, want string }{
		{`40/a,{"x":"` + strings.Repeat("x", 64) + `"}`, `44/a,{"message":"auth is too large"}`},
		{"40/a,", `40/a,{"sid":`},
		{"40/b,", `44/b,{"message":"too many namespaces"}`},
	} {
		if got := p.post(session, "", c.packet); got.status != http.StatusOK {
			t.Fatalf("%.20s: got %v", c.packet, got)
		}
		if got := p.get(session); !strings.HasPrefix(got.body, c.want) {
			t.Errorf("%.20s: got %v, want %s", c.packet, got, c.want)
		}
	}
}

// TestOtherNodesReachANodeThatSaysWhere, and nobody does otherwise.
func TestOtherNodesReachANodeThatSaysWhere(t *testing.T) {
	t.Parallel()
	with := start(t, enough, "--relay.peer=http://127.0.0.1:3000").ready()
	if got := with.get("/tether-relay"); got.status != http.StatusMisdirectedRequest {
		t.Errorf("a request for no node: got %v", got)
	}
	without := start(t, enough).ready()
	if got := without.get("/tether-relay"); got.status != http.StatusNotFound {
		t.Errorf("without relay.peer: got %v", got)
	}
}

func TestHelpNamesEverySetting(t *testing.T) {
	var out strings.Builder
	if err := printHelp(&out, []string{"serve", "-h"}); err != nil {
		t.Fatal(err)
	}
	parser, err := config.NewParser(&config.Flags{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range config.Settings(parser.Model) {
		if !strings.Contains(out.String(), "--"+f.Name) && !strings.Contains(out.String(), "--[no-]"+f.Name) {
			t.Errorf("tether serve -h does not name %s", f.Name)
		}
	}
}

// TestTheStatisticsHaveAKeyOfTheirOwn: what monitors a node need not be able to emit.
func TestTheStatisticsHaveAKeyOfTheirOwn(t *testing.T) {
	const statsKey = "stats-key-for-tests-only"
	environ := []string{"TETHER_AUTH_MODE=none", "TETHER_STATS_KEYS=" + statsKey}
	emits := start(t, append([]string{"TETHER_EMIT_KEYS=" + testEmitKey}, environ...)).ready()
	silent := start(t, append([]string{"TETHER_EMIT_ENABLED=false"}, environ...)).ready()
	for _, c := range []struct {
		server       *process
		method, path string
		key          string
		want         int
	}{
		{emits, http.MethodGet, "/stats", statsKey, 200},
		{emits, http.MethodGet, "/stats", testEmitKey, 200},
		{emits, http.MethodGet, "/stats", "another-key-for-tests", 401},
		{emits, http.MethodPost, "/emit", statsKey, 401},
		{emits, http.MethodPost, "/disconnect", statsKey, 401},
		{silent, http.MethodGet, "/stats", statsKey, 200},
		{silent, http.MethodPost, "/emit", statsKey, 404},
	} {
		if got := c.server.request(c.method, c.path, "Bearer "+c.key, `{"everyone":true,"event":"x"}`); got.status != c.want {
			t.Errorf("%s with %s: got %v, want %d", c.path, c.key, got, c.want)
		}
	}
}

func TestTheServerListensOnThisHostOnly(t *testing.T) {
	l, err := config.Loader{Environ: enough}.Load()
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(l.Addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		t.Errorf("the default is %s", l.Addr)
	}
}
