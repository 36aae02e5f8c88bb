//go:build unix

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/examples/internal/exampletest"
	"tether/internal/long"
)

// commands are the blocks of commands in the README's section for other modules, in their order.
func commands(t *testing.T) (workspace, replace, move string) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## In your own service\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(section, -1)
	if len(blocks) != 3 {
		t.Fatalf("the README has %d blocks of commands for other modules, want 3", len(blocks))
	}
	return blocks[0][1], blocks[1][1], blocks[2][1]
}

// beside returns a folder in which ./tether is this checkout.
func beside(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(root, filepath.Join(dir, "tether")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// follow runs commands of the README that end in "go run .", pings a user of the service that they start, and
// ends it.
func follow(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ADDR=127.0.0.1:0", "GOFLAGS=-buildvcs=false")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the service too
	cmd.WaitDelay = time.Minute
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Cancel()
	address := ""
	for lines := bufio.NewScanner(stderr); address == "" && lines.Scan(); {
		t.Log(lines.Text())
		if _, rest, ok := strings.Cut(lines.Text(), "listening on "); ok {
			address = "http://" + rest
		}
	}
	if address == "" {
		t.Fatalf("the service does not start: %v", cmd.Wait())
	}
	c := exampletest.Connect(t, address, `{"user":"42"}`)
	c.Want(`40{"sid":"…`, `42["/ops/connection-success",{"message":"Successfully connected"}]`)
	if status, body := exampletest.Post(t, address+"/ping/42", ""); status != 200 || body != "1 node took it" {
		t.Errorf("ping: %d %s", status, body)
	}
	c.Want(`42["/users/ping",{"hello":"world"}]`)
}

func TestAnotherModuleUsesACheckoutAsTheREADMESays(t *testing.T) {
	workspace, replace, _ := commands(t)
	dir := beside(t)
	follow(t, dir, workspace)
	t.Run("without a workspace", func(t *testing.T) {
		long.Only(t) // it fetches modules
		follow(t, dir, "cd shop; rm go.work\n"+replace+"go run .\n")
	})
}

// run runs a command in dir, and returns the lines that it prints.
func run(t *testing.T, dir, script string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "TETHER_TEST_LONG=", "TETHER_TEST_REQUIRE_REAL=") // it has no npm packages
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.Fields(string(out))
}

func TestTheModuleMovesAsTheREADMESays(t *testing.T) {
	long.Only(t)
	_, _, move := commands(t)
	dir := t.TempDir()
	run(t, "../..", "git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "+dir)
	run(t, dir, move)
	run(t, dir, "go vet ./...")
	var public []string
	for _, name := range run(t, dir, "go list ./...") {
		inside := strings.TrimPrefix(name, "example.org/you/tether/")
		if inside == name {
			t.Errorf("%s has not moved", name)
		}
		if !regexp.MustCompile(`^(cmd|bench|examples|docs|internal)(/|$)|/internal(/|$)`).MatchString(inside) {
			public = append(public, name)
		}
	}
	run(t, dir, "go test "+strings.Join(public, " "))
	t.Logf("%d public packages moved, and pass", len(public))
}
