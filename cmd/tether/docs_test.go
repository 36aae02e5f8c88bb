package main

import (
	"bufio"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/internal/backend"
	"tether/internal/client"
)

// pages are the docs that this package answers for.
var pages = []string{"README.md", "../../docs/embedding.md", "../../docs/deploying.md", "../../docs/brokers.md", "../../docs/troubleshooting.md"}

var fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// trimmed are the lines of a text without indentation and empty ones.
func trimmed(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func runOf(file, block []string) bool {
	for i := range file {
		if i+len(block) <= len(file) && slices.Equal(file[i:i+len(block)], block) {
			return true
		}
	}
	return false
}

func TestTheCodeInTheDocsIsThatOfTheRecipes(t *testing.T) {
	var files [][]string
	for _, root := range []string{".", "../../examples", "../../deploy"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !slices.Contains([]string{".go", ".cjs", ".mjs", ".py", ".sh", ".yaml"}, filepath.Ext(path)) {
				return err
			}
			text, err := os.ReadFile(path)
			files = append(files, trimmed(string(text)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
			if page == "README.md" && m[1] == "sh" {
				continue // run by TestTheREADMEWordForWord
			}
			if !slices.ContainsFunc(files, func(f []string) bool { return runOf(f, trimmed(m[2])) }) {
				t.Errorf("%s: this is in no recipe:\n%s", page, m[2])
			}
		}
	}
}

// This is the client of docs/deploying.md; it is compiled by nobody and so kept here, where
// the test above finds it. The same options are used by the tests of the proxies.
var _ = `
const socket = io(url, { transports: ["websocket"], auth: { token } });
`

var settingName = regexp.MustCompile("`((?:auth|emit|devices|client|cors|http|tls|log|drain)\\.[a-z-]+)")

func TestTheDocsNameSettingsThatExist(t *testing.T) {
	parser, err := config.NewParser(&config.Flags{})
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, f := range config.Settings(parser.Model) {
		known = append(known, f.Name)
	}
	for _, page := range append(pages, "../../docs/configuration.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range settingName.FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(known, m[1]) && m[1] != "auth.token" {
				t.Errorf("%s: there is no setting %s", page, m[1])
			}
		}
	}
}

func TestTheRightsInTheDocsAreEnoughForRedis(t *testing.T) {
	t.Parallel()
	redis := backend.Redis(t, "--save", "") // with an argument it is one of our own
	if redis.Kind == backend.StandIn {
		t.Skip("the stand-in for Redis has no ACL")
	}
	page, err := os.ReadFile("../../docs/brokers.md")
	if err != nil {
		t.Fatal(err)
	}
	rights := regexp.MustCompile("[`]((?:[&~+][a-z|:*]+ ?)+)[`]").FindAllStringSubmatch(string(page), -1)
	if len(rights) != 5 {
		t.Fatalf("got %q", rights)
	}
	url := strings.Replace(redis.URL, "redis://", "redis://app:hunter2@", 1)
	command := "ACL SETUSER app on >hunter2"
	for _, c := range []struct {
		rights [][]string
		query  string
		args   []string
	}{
		{rights[:3], "", nil},
		{rights[3:], "?log=5m", []string{"--recovery.on", "--recovery.log"}},
	} {
		for _, r := range c.rights {
			command += " " + r[1]
		}
		tellRedis(t, redis.Addr, command)
		p := start(t, append([]string{"TETHER_BROKER=" + url + c.query}, enough...), append(c.args, "--drain.delay=1s")...).ready()
		client := dialUser(t, client.Options{URL: p.url()}, "42")
		reaches(t, client, "42", p)
		if c.args != nil && !strings.Contains(stuck(t, p, "43", `,"recovery":true`), `"pid":"`) {
			t.Error("a client that asks for its session is offered none")
		}
		p.signal(syscall.SIGTERM)
		p.exit()
		if strings.Contains(p.log(), `"msg":"redis:`) {
			t.Error("Redis has refused something")
		}
	}
}

var readyAs = regexp.MustCompile(`\{"status":"ready","node":"[^"]+","uptimeSeconds":[0-9]+\}`)

// TestTheREADMEWordForWord runs the commands of the README: the same lines, but on a free port, with
// the program that this test is instead of go build, and without npm install.
func TestTheREADMEWordForWord(t *testing.T) {
	t.Parallel()
	modules := os.Getenv("TETHER_NODE_MODULES")
	if modules == "" {
		modules = "../../internal/interop/node_modules"
	}
	modules, err := filepath.Abs(modules)
	if err != nil {
		t.Fatal(err)
	}
	_, noNode := exec.LookPath("node")
	_, noCurl := exec.LookPath("curl")
	if _, err := os.Stat(filepath.Join(modules, "socket.io-client")); err != nil || noNode != nil || noCurl != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal("node, curl or socket.io-client is not installed, and TETHER_TEST_REQUIRE_REAL=1")
		}
		t.Skip("node, curl or socket.io-client (npm ci in internal/interop) is not installed")
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[2])
	}
	if len(blocks) != 4 {
		t.Fatalf("the README has %d blocks of commands", len(blocks))
	}
	// Keys as in the first block, and the server of its last line.
	keys, server, _ := strings.Cut(strings.TrimSpace(blocks[0]), "\ntether serve")
	build, keys, _ := strings.Cut(keys, "\n")
	if server != "" || build != `go build -o bin/ ./cmd/tether && export PATH="$PWD/bin:$PATH"` {
		t.Fatalf("the first block begins with %q and ends with %q", build, server)
	}
	newKey := shell(t, "", keys+"\nprintf '%s\\n%s\\n' \"$TETHER_AUTH_KEYS\" \"$TETHER_EMIT_KEYS\"")
	auth, emit, _ := strings.Cut(strings.TrimSpace(newKey), "\n")
	environ := []string{"TETHER_AUTH_KEYS=" + auth, "TETHER_EMIT_KEYS=" + emit}
	p := start(t, environ).ready()
	second := func() string { // without the name of the node, and for how long it has run
		return readyAs.ReplaceAllString(shell(t, p.addr, blocks[1], environ...), `{"status":"ready"}`)
	}
	if got := second(); got != "{\"status\":\"ready\"}\n{\"nodes\":0}\n" {
		t.Errorf("second block: got %s", got)
	}

	third := strings.Replace(blocks[2], "npm install --no-save socket.io-client\n", "", 1)
	node := shellCommand(p.addr, strings.Replace(third, "\nnode ", "\nexec node ", 1),
		append(environ, "NODE_PATH="+modules, "HUB_URL="+p.url())...)
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(patience, func() { _ = node.Process.Kill() })
	defer func() {
		stuck.Stop()
		_ = node.Process.Kill()
		_ = node.Wait()
	}()
	lines := bufio.NewScanner(out)
	want := func(line string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != line {
			t.Errorf("client: got %q, want %q", lines.Text(), line)
		}
	}
	want("connected")
	want(`/ops/connection-success [{"message":"Successfully connected"}]`)
	if got := second(); got != "{\"status\":\"ready\"}\n{\"nodes\":1}\n" {
		t.Errorf("second block again: got %s", got)
	}
	want(`/users/ping [{"hello":"world"}]`)
}

// shellCommand is a script from the README, at the top of the repository.
func shellCommand(addr, script string, environ ...string) *exec.Cmd {
	script = strings.NewReplacer("localhost:3000", addr, "curl ", "curl --silent ").Replace(script)
	cmd := exec.Command("sh", "-ec", `tether() { "$PROGRAM" "$@"; }`+"\n"+script)
	cmd.Dir = "../.."
	program, _ := filepath.Abs(os.Args[0])
	cmd.Env = append([]string{asProgram + "=1", "PROGRAM=" + program, "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, environ...)
	cmd.Stderr = os.Stderr
	return cmd
}

func shell(t *testing.T, addr, script string, environ ...string) string {
	t.Helper()
	out, err := shellCommand(addr, script, environ...).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
