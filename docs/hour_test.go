//go:build unix

package docs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/client"
	"tether/internal/long"
)

// A step of hour.md is a block: a file, whose name is the last thing in the text before it, commands, or what
// the commands before it print.
var (
	block    = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
	fileName = regexp.MustCompile("`([a-z_]+/[a-z_]+\\.(?:go|ts))`:\\s*$")
)

// shell is one shell, as a reader has it open.
type shell struct {
	t     *testing.T
	stdin io.Writer
	lines chan string
}

// What the shell says when a block is done, and when it has ended itself, because a command has failed.
const (
	prompt = "-- the block is done --"
	ended  = "-- the shell has ended --"
)

// run runs a block of commands and returns what they print.
func (s *shell) run(commands string) (printed string) {
	s.t.Helper()
	fmt.Fprintf(s.stdin, "%s\necho; echo '%s'\n", commands, prompt)
	for {
		select {
		case line := <-s.lines:
			switch line {
			case ended:
				s.t.Fatalf("this fails:\n%s\nit prints:\n%s", commands, printed)
			case prompt:
				return strings.TrimSpace(printed)
			}
			printed += line + "\n"
		case <-time.After(5 * time.Minute):
			s.t.Fatalf("this does not end:\n%s", commands)
		}
	}
}

// open starts the shell in a folder with the checkout beside it.
func open(t *testing.T) (s *shell, dir string) {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := os.Symlink(root, filepath.Join(dir, "tether")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-e")
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TETHER_") // they are the tests', and the program knows other ones
	}), "GOFLAGS=-buildvcs=false")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the server, too
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1<<10)
	done := make(chan struct{})
	go func() { // the cleanup waits
		defer close(done)
		for text := bufio.NewScanner(out); text.Scan(); {
			t.Log(text.Text())
			lines <- text.Text()
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		cmd.Cancel()
		cmd.Wait()
		in.Close()
		<-done
	})
	s = &shell{t, stdin, lines}
	s.run("trap 'echo; echo \"" + ended + "\"' EXIT")
	return s, dir
}

// freeAddress is an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// npm puts npm's packages where the page would have them installed.
func npm(t *testing.T, dir string) (missing bool) {
	t.Helper()
	modules := os.Getenv("TETHER_NODE_MODULES")
	if modules == "" {
		modules = "../internal/interop/node_modules"
	}
	modules, err := filepath.Abs(modules)
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat(filepath.Join(modules, "typescript", "bin", "tsc"))
	if err == nil {
		_, err = exec.LookPath("node")
	}
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Logf("the page's last step is left out: run npm ci in internal/interop, or set TETHER_NODE_MODULES: %v", err)
		return true
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return false
}

func TestTheServiceOfTheHourIsBuiltWordForWord(t *testing.T) {
	long.Only(t) // it builds five programs
	page, err := os.ReadFile("hour.md")
	if err != nil {
		t.Fatal(err)
	}
	s, dir := open(t)
	dir = filepath.Join(dir, "orders")
	address := freeAddress(t)
	here := strings.NewReplacer( // the reader's machine is another one
		"redis://127.0.0.1:6379", backend.Redis(t).URL,
		"127.0.0.1:3000", address,
		"npm install typescript@5.9.3 socket.io-client@4.8.3", "test -d node_modules",
		"npx tsc", "node node_modules/typescript/bin/tsc",
	)
	s.run("export ADDR=" + address)
	printed, before := "", 0
	for _, at := range block.FindAllSubmatchIndex(page, -1) {
		kind, text := string(page[at[2]:at[3]]), string(page[at[4]:at[5]])
		intro := string(page[before:at[0]])
		before = at[1]
		switch kind {
		case "go", "ts":
			name := fileName.FindStringSubmatch(intro)
			if name == nil {
				t.Fatalf("no file is named before:\n%s", text)
			}
			path := filepath.Join(dir, name[1])
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		case "sh":
			if strings.Contains(text, "npm install") && npm(t, filepath.Join(dir, "web")) {
				continue
			}
			printed = s.run(here.Replace(text))
			if strings.Contains(text, "/login") {
				connects(t, "http://"+address, filepath.Join(dir, "token"))
			}
		case "text":
			want, open := strings.CutSuffix(strings.TrimSpace(text), "…")
			if want = strings.TrimSpace(want); printed != want && !(open && strings.HasPrefix(printed, want)) {
				t.Errorf("it prints %q, the page says %q", printed, want)
			}
		default:
			t.Errorf("a block of %s", kind)
		}
	}
}

// connects does what the page in the browser does: it connects with the token.
func connects(t *testing.T, url, file string) {
	t.Helper()
	sealed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{URL: url, Auth: map[string]string{"token": string(sealed)}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if e, err := c.Next(ctx); err != nil || e.Name != "/ops/connection-success" {
		t.Errorf("got %v, %v", e, err)
	}
}
