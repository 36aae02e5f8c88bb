package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/internal/backend"
	"tether/internal/client"
	"tether/internal/long"
	"tether/token"
)

func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--drain.delay="+long.Limit(time.Second).String(), "--drain.window=200ms").ready()
	c := dialUser(t, client.Options{URL: p.url()}, "42")
	poller := dialUser(t, client.Options{URL: p.url(), Transport: client.Polling}, "42")

	p.signal(syscall.SIGTERM)
	p.until("/readyz", http.StatusServiceUnavailable)
	// Load balancers need their time; until then all is as it was.
	if got := p.get("/readyz"); !strings.Contains(got.body, "draining") {
		t.Errorf("readyz: got %v", got)
	}
	if got := p.get("/healthz"); got.status != http.StatusOK {
		t.Errorf("healthz: got %v", got)
	}
	if got := p.post("/emit", testEmitKey, `{"user":"42","event":"last"}`); got != (answer{http.StatusOK, `{"nodes":1}`}) {
		t.Errorf("emit: got %v", got)
	}
	if got := next(t, c); got != "last []" {
		t.Errorf("got %s", got)
	}
	if code := p.exit(); code != exitDone {
		t.Errorf("exit code: got %d", code)
	}
	for _, c := range []*client.Client{c, poller} {
		// Not "disconnected by the server": after that a client does not come back by itself.
		if why := c.Reason(); strings.Contains(why, "disconnected") {
			t.Errorf("%s was not told to come back: %s", c.Transport(), why)
		}
	}
}

func TestASecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--drain.delay=10m").ready()
	p.signal(syscall.SIGTERM)
	p.waitLog("told to stop; a second signal ends the program at once")
	if line := p.waitLog("stopping"); line["delay"] != "10m0s" || line["connections"] != 0.0 {
		t.Errorf("it does not say what it waits for: %v", line)
	}
	p.signal(syscall.SIGHUP) // counts for nothing
	p.signal(os.Interrupt)
	if code := p.exit(); code != exitCutShort {
		t.Errorf("exit code: got %d", code)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	running := start(t, enough).ready()
	for _, c := range []struct {
		name    string
		args    []string
		environ []string
		want    int
		out     string // part of what is printed
	}{
		{"nothing", nil, nil, exitMistake, "Exit codes"},
		{"help", []string{"-h"}, nil, exitDone, "Exit codes"},
		{"help of a command", []string{"emit", "-h"}, nil, exitDone, "--broker"},
		{"version", []string{"-version"}, nil, exitDone, "tether "},
		{"version beats mistakes", []string{"serve", "--nonsense", "--version"}, nil, exitDone, "tether "},
		{"help beats mistakes", []string{"--nonsense", "--help"}, nil, exitDone, "Exit codes"},
		{"good configuration", []string{"check-config"}, enough, exitDone, "A node may take 42s to stop"},
		{"bad configuration", []string{"check-config"}, nil, exitMistake, "auth.keys"},
		{"print", []string{"print-config"}, enough, exitDone, "keys: [(hidden)] # TETHER_EMIT_KEYS"},
		{"print bad configuration", []string{"print-config", "--addr=x"}, enough, exitMistake, "addr"},
		{"new key needs none", []string{"key"}, nil, exitDone, "="},
		{"new token", []string{"token", "mint", "42"}, enough, exitDone, "ey"},
		{"new token without a key", []string{"token", "mint", "42"}, nil, exitMistake, "auth.keys"},
		{"new token for nobody", []string{"token", "mint"}, enough, exitMistake, "<user> is missing"},
		{"probe", []string{"probe", running.url() + "/readyz"}, nil, exitDone, ""},
		{"probe of what is not there", []string{"probe", "http://" + taken.Addr().String() + "0/readyz"}, nil, exitFailed, ""},
		{"probe of what is not ready", []string{"probe", running.url() + "/nothing"}, nil, exitFailed, "404"},
		{"mistake", []string{"serve", "--log.level=loud"}, enough, exitMistake, "log.level"},
		{"port is taken", []string{"serve", "--addr=" + taken.Addr().String()}, enough, exitFailed, "addr (flag): " + taken.Addr().String() + " is taken by another program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := tetherCommand(c.args, c.environ)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != c.want || !strings.Contains(string(out), c.out) {
				t.Errorf("got %d and %s\nwant %d and %q", got, out, c.want, c.out)
			}
		})
	}
}

func TestANewKeyAndANewTokenAreGood(t *testing.T) {
	key, err := tetherCommand([]string{"key"}, nil).Output()
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{"TETHER_AUTH_KEYS=" + strings.TrimSpace(string(key)), "TETHER_EMIT_KEYS=" + strings.TrimSpace(string(key))}
	sealed, err := tetherCommand([]string{"token", "mint", "42"}, environ).Output()
	if err != nil {
		t.Fatal(err)
	}
	open := tetherCommand([]string{"token", "open"}, environ)
	open.Stdin = bytes.NewReader(sealed)
	if out, err := open.Output(); err != nil || !strings.HasPrefix(string(out), `{"user":"42","expires":"20`) {
		t.Errorf("opened: got %s, %v", out, err)
	}
	if out, err := tetherCommand([]string{"token", "open", "hunter2"}, environ).CombinedOutput(); err == nil || strings.Contains(string(out), "hunter2") {
		t.Errorf("what is no token opens to %s", out)
	}
	p := start(t, environ).ready()
	c := dial(t, client.Options{URL: p.url(), Auth: map[string]string{"token": strings.TrimSpace(string(sealed))}})
	if got := next(t, c); !strings.HasPrefix(got, "/ops/connection-success") {
		t.Errorf("got %s", got)
	}
}

func TestSIGHUPTakesWhatCanChangeIntoUse(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "server.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newTokenKey := token.GenerateKey()
	write("auth: {keys: [" + testTokenKey + "]}\nemit: {keys: [" + testEmitKey + "]}\ncors: {origins: [\"https://old.example\"]}\n")
	p := start(t, nil, "--config="+file).ready()
	origin := func(o string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url()+"/socket.io/?EIO=4&transport=polling", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", o)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	state := func() [4]int {
		t.Helper()
		const body = `{"user":"43","event":"x"}`
		return [4]int{
			p.post("/emit", testEmitKey, body).status, p.post("/emit", "a-new-key-for-tests", body).status,
			origin("https://old.example"), origin("https://new.example"),
		}
	}
	if got, want := state(), [4]int{200, 401, 200, 403}; got != want {
		t.Errorf("before: got %v, want %v", got, want)
	}
	before := dialUser(t, client.Options{URL: p.url()}, "42")

	write("emit: {keys: [short]}\nlog: {level: loud}")
	p.signal(syscall.SIGHUP)
	if got := p.waitLog("reload: the configuration has a mistake")["error"]; !strings.Contains(got.(string), "log.level") {
		t.Errorf("got %v", got)
	}
	if got, want := state(), [4]int{200, 401, 200, 403}; got != want {
		t.Errorf("after a mistake: got %v, want %v", got, want)
	}

	write("addr: :1\nclient: {max-payload: 4096}\nauth: {keys: [" + newTokenKey + "], required: true}\nemit: {keys: [a-new-key-for-tests]}\n" +
		"cors: {origins: [\"https://new.example\"]}\nlog: {level: debug}\n")
	p.signal(syscall.SIGHUP)
	keys := p.waitLog("reload: these settings have changed too and need a restart")["keys"]
	if got, _ := keys.([]any); !slices.Equal(got, []any{"client.max-payload"}) { // addr is given by a flag
		t.Errorf("need a restart: got %v", keys)
	}
	if got, want := state(), [4]int{401, 200, 403, 200}; got != want {
		t.Errorf("after: got %v, want %v", got, want)
	}
	p.waitLog("API request") // at level debug
	if _, err := tryDial(t, client.Options{URL: p.url(), Auth: map[string]string{"token": tokenFor(t, "42", time.Hour)}}); err == nil {
		t.Error("a token of the old key still opens")
	}
	if got := p.post("/emit", "a-new-key-for-tests", `{"user":"42","event":"still"}`); got != (answer{http.StatusOK, `{"nodes":1}`}) {
		t.Errorf("a client from before the reload: got %v", got)
	}
	if got := next(t, before); got != "still []" {
		t.Errorf("a client from before the reload: got %s", got)
	}
}

// TestSIGHUPTakesANewPasswordOfTheAdminUI, and names a file of a secret that has another one in it and waits for a restart.
func TestSIGHUPTakesANewPasswordOfTheAdminUI(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) (path string) {
		t.Helper()
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	settings := func(every int) string {
		return fmt.Sprintf("tracing: {every: %d}\n", every)
	}
	p := start(t, enough, "--admin-ui.mode=production", "--admin-ui.password=file:"+write("password", uiPassword),
		"--key=file:"+write("key", token.GenerateKey()), "--config="+write("server.yaml", settings(0))).ready()
	dial := func(password string) (*client.Client, error) {
		t.Helper()
		return tryDial(t, client.Options{URL: p.url(), Namespace: "/admin", Auth: map[string]string{"username": "admin", "password": password}})
	}
	open, err := dial(uiPassword)
	if err != nil {
		t.Fatal(err)
	}
	const other = "another password of operators"
	write("password", other)
	write("key", token.GenerateKey())
	write("server.yaml", settings(7)) // is reloaded, and not named
	p.signal(syscall.SIGHUP)
	keys := p.waitLog("reload: these settings have changed too and need a restart")["keys"]
	if got, _ := keys.([]any); !slices.Equal(got, []any{"key"}) {
		t.Errorf("need a restart: got %v", keys)
	}
	var refused *client.Refused
	if _, err := dial(uiPassword); !errors.As(err, &refused) {
		t.Errorf("the old password: got %v", err)
	}
	if _, err := dial(other); err != nil {
		t.Errorf("the new password: got %v", err)
	}
	for err == nil { // the page that was open ends, behind what it was told
		_, err = open.Next(t.Context())
	}
	if log := p.log(); strings.Contains(log, other) || t.Context().Err() != nil {
		t.Errorf("the password is in the log, or the page stays open: %v", err)
	}
}

func TestNeitherSecretsNorPayloadsAreLogged(t *testing.T) {
	t.Parallel()
	redis := backend.Redis(t, "--save", "") // with an argument it is one of our own
	tellRedis(t, redis.Addr, "CONFIG SET requirepass hunter2")
	withPassword := strings.Replace(redis.URL, "redis://", "redis://:hunter2@", 1)
	p := start(t, append([]string{"TETHER_BROKER=" + withPassword}, enough...), "--log.level=debug").ready()
	p.post("/emit", testEmitKey, `{"user":"42","event":"/secret/event","args":["hunter3"]}`)
	p.post("/emit", "hunter4-hunter4-hunter4", `{"user":"42","event":"x","args":["hunter3"]}`)
	p.post("/emit", testEmitKey, `{"hunter3":`)
	sealed := tokenFor(t, "42", time.Hour)
	_, _ = tryDial(t, client.Options{URL: p.url(), Auth: map[string]string{"token": sealed}})
	_, _ = tryDial(t, client.Options{URL: p.url(), Auth: map[string]string{"token": "hunter5"}})
	p.signal(syscall.SIGTERM)
	p.exit()
	log := p.log()
	for _, secret := range []string{"hunter", testEmitKey, testTokenKey, sealed, sealed[20:60]} {
		if strings.Contains(log, secret) {
			t.Errorf("%.20q is in the log:\n%s", secret, log)
		}
	}
	if !strings.Contains(log, "redis://(hidden)@") {
		t.Error("the log does not say which broker")
	}
	if !strings.Contains(log, "API request") {
		t.Error("the log at level debug has no requests")
	}
}

// tellRedis sends one command.
func tellRedis(t *testing.T, addr, command string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var reply [3]byte
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, reply[:]); err != nil || string(reply[:]) != "+OK" {
		t.Fatalf("got %q, %v", reply, err)
	}
}

func TestWithoutABrokerTheServerSaysSo(t *testing.T) {
	long.Alone(t)
	type failure struct {
		name       string
		possible   func(*backend.Server) bool
		end, begin func(*backend.Server)
	}
	stopped := failure{"stopped", (*backend.Server).Restartable, (*backend.Server).Stop, (*backend.Server).Start}
	frozen := failure{"frozen", (*backend.Server).Pausable, (*backend.Server).Pause, (*backend.Server).Resume}
	for name, find := range map[string]func(testing.TB, ...string) *backend.Server{"Redis": backend.Redis, "NATS": backend.NATS} {
		for _, f := range []failure{stopped, frozen} {
			t.Run(name+" "+f.name, func(t *testing.T) {
				long.Alone(t)
				server := find(t)
				if !f.possible(server) {
					t.Skipf("%s cannot be %s", server, f.name)
				}
				p := start(t, append([]string{"TETHER_BROKER=" + server.URL}, enough...)).ready()
				c := dialUser(t, client.Options{URL: p.url()}, "42")
				f.end(server)
				ended := time.Now()
				got := p.post("/emit", testEmitKey, `{"user":"42","event":"lost"}`)
				if took := time.Since(ended); got.status != http.StatusServiceUnavailable || took > long.Limit(2500*time.Millisecond) {
					t.Errorf("emit: got %v after %v", got, took)
				}
				p.until("/readyz", http.StatusServiceUnavailable)
				if took := time.Since(ended); took > long.Limit(4*time.Second) {
					t.Errorf("readyz took %v", took)
				}
				if got := p.get("/healthz"); got.status != http.StatusOK {
					t.Errorf("healthz: got %v", got)
				}
				f.begin(server)
				p.ready()
				// For some seconds nobody knows whether all nodes are back.
				if got := p.post("/emit", testEmitKey, `{"user":"42","event":"back"}`); got != (answer{http.StatusOK, `{"nodes":1,"bound":"at least"}`}) {
					t.Errorf("emit: got %v", got)
				}
				for event := ""; event != "back []"; event = next(t, c) {
					if event == "lost []" {
						t.Log("what was emitted while the broker was frozen has arrived late")
					}
				}
			})
		}
	}
}

// oneNode is the answer when one node took an event. NATS knows only that no fewer did.
func oneNode(broker string) answer {
	if broker == "NATS" {
		return answer{http.StatusOK, `{"nodes":1,"bound":"at least"}`}
	}
	return answer{http.StatusOK, `{"nodes":1}`}
}

func TestTwoNodesOnOneBroker(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func() string{
		"Redis": func() string { return backend.Redis(t).URL },
		"NATS":  func() string { return backend.NATS(t).URL },
	} {
		t.Run(name, func(t *testing.T) {
			environ := append([]string{"TETHER_BROKER=" + url(), "TETHER_PREFIX=" + t.Name()}, enough...)
			a, b := start(t, environ).ready(), start(t, environ).ready()
			c := dialUser(t, client.Options{URL: b.url()}, "42")
			if got := a.post("/emit", testEmitKey, `{"user":"42","event":"over"}`); got != oneNode(name) {
				t.Errorf("got %v", got)
			}
			if got := next(t, c); got != "over []" {
				t.Errorf("got %s", got)
			}
			if got := a.post("/disconnect", testEmitKey, `{"user":"42"}`); got.status != http.StatusOK {
				t.Errorf("got %v", got)
			}
			if why := c.Reason(); why != "disconnected by the server" {
				t.Errorf("ended because: %s", why)
			}
		})
	}
}

func TestARequestIsBounded(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--http.header-timeout=2s", "--http.body-timeout=2s", "--http.max-header-bytes=8192").ready()
	for name, c := range map[string]struct {
		send string
		want string
	}{
		"slow body": {"POST /emit HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + testEmitKey + "\r\nContent-Length: 10\r\n\r\n{", "408"},
		"slow head": {"GET /healthz HTTP/1.1\r\nHost: a\r\n", ""},
		"too large": {"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 16<<10) + "\r\n\r\n", "431"},
	} {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte(c.send)); err != nil {
			t.Fatal(err)
		}
		var head [64]byte
		n, err := conn.Read(head[:])
		if c.want == "" && err == io.EOF {
			continue
		}
		if err != nil || !bytes.Contains(head[:n], []byte(c.want)) {
			t.Errorf("%s: got %q, %v; want %s", name, head[:n], err, c.want)
		}
	}
}

// TestANodeStopsInTheTimeThatItSays, also when neither its broker nor its clients answer any more.
func TestANodeStopsInTheTimeThatItSays(t *testing.T) {
	long.Alone(t)
	redis := backend.Redis(t)
	if !redis.Pausable() {
		t.Skipf("%s cannot be frozen", redis)
	}
	args := []string{
		"--drain.delay=100ms", "--drain.window=300ms", "--drain.timeout=300ms", "--client.hook-timeout=500ms", "--client.write-timeout=500ms",
	}
	environ := append([]string{"TETHER_BROKER=" + redis.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	l, err := config.Loader{Args: args, Environ: environ}.Load()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, environ, args...).ready()
	dialUser(t, client.Options{URL: p.url()}, "42")
	dialUser(t, client.Options{URL: p.url(), Transport: client.Polling}, "42")
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /emit HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nContent-Length: 10\r\n\r\n{", testEmitKey); err != nil {
		t.Fatal(err)
	}
	redis.Pause()
	defer redis.Resume()
	told := time.Now()
	p.signal(syscall.SIGTERM)
	code := p.exit()
	if took := time.Since(told); took > long.Limit(l.StopTime()) || code != exitDone {
		t.Errorf("it ended with %d after %v, and says that it needs %v", code, took, l.StopTime())
	}
}
