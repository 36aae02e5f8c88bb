package interop

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/internal/interop/browser"
)

var printedAddress = regexp.MustCompile(`(?:http://|listening on )([\d.:]+)(;|$)`)

// startExample runs a program of examples on so many ports, and returns the addresses of its pages.
func startExample(t *testing.T, name string, ports int, args ...string) []string {
	t.Helper()
	return startBinary(t, build(t, "tether/examples/"+name), ports, args...)
}

func build(t *testing.T, pkg string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), path.Base(pkg))
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, pkg).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

func startBinary(t *testing.T, binary string, ports int, args ...string) []string {
	t.Helper()
	name := filepath.Base(binary)
	ctx, cancel := context.WithCancel(context.Background())
	addresses := strings.Repeat(",127.0.0.1:0", ports)[1:]
	cmd := exec.CommandContext(ctx, binary, append([]string{"-addr", addresses}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 64) // more than it prints
	go func() {                    // until the process ends; the cleanup waits
		defer close(lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			select {
			case lines <- s.Text():
			default:
			}
		}
		io.Copy(io.Discard, stdout)
	}()
	t.Cleanup(func() {
		cancel()
		for range lines {
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ends with %d, want 0", name, code)
		}
	})
	var pages []string
	for late := time.After(patience); len(pages) < ports; {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("%s ended", name)
			}
			if m := printedAddress.FindStringSubmatch(line); m != nil {
				pages = append(pages, "http://"+m[1])
			}
		case <-late:
			t.Fatalf("%s does not start", name)
		}
	}
	return pages
}

func login(t *testing.T, p *browser.Page, user string) {
	t.Helper()
	p.Fill(t, "#login-user", user)
	p.Click(t, "#login button")
	p.Wait(t, `document.querySelector("#status").textContent === "connected"`)
	p.Wait(t, `document.querySelector("#transport").textContent === "websocket"`)
	p.Wait(t, `document.querySelector("#events .name").textContent === "/ops/connection-success"`)
}

func emit(t *testing.T, p *browser.Page, to, payload, receipt string) {
	t.Helper()
	p.Fill(t, "#to", to)
	p.Fill(t, "#payload", payload)
	p.Click(t, "#emit button")
	p.Wait(t, `!["", "…"].includes(document.querySelector("#receipt").textContent)`)
	if got := p.Text(t, "#receipt"); got != receipt {
		t.Errorf("emit to %s: the receipt says %q, want %q", to, got, receipt)
	}
}

func TestQuickstartPagesEmitToEachOther(t *testing.T) {
	t.Parallel()
	chromium, err := browser.Find()
	need(t, err)
	pages := startExample(t, "quickstart", 2)
	b := browser.Start(t, chromium)

	alice, bob := b.Open(t, pages[0]), b.Open(t, pages[1])
	login(t, alice, "alice")
	login(t, bob, "bob")
	emit(t, alice, "bob", `{"hello": "world"}`, "1 node took it")
	bob.Wait(t, `document.querySelector("#events .name").textContent === "/users/ping"`)
	if got, want := bob.Text(t, "#events pre"), `{"hello":"world"}`; got != want {
		t.Errorf("bob's page shows %q, want %q", got, want)
	}
	emit(t, bob, "alice", `[1, "é😀"]`, "1 node took it")
	alice.Wait(t, `document.querySelector("#events .name").textContent === "/users/ping"`)
	if got, want := alice.Text(t, "#events pre"), `[1,"é😀"]`; got != want {
		t.Errorf("alice's page shows %q, want %q", got, want)
	}
	emit(t, alice, "carol", `{}`, "nobody is there")
	for name, p := range map[string]*browser.Page{"alice": alice, "bob": bob} {
		if n := p.Eval(t, `document.querySelectorAll("#events li").length`); n != 2.0 {
			t.Errorf("%s's page shows %v events, want the greeting and one more", name, n)
		}
	}

	screenshot(t, alice, "quickstart-a")
	screenshot(t, bob, "quickstart-b")
	wantNoProblems(t, b)
}

// screenshot saves a picture of the page, where somebody wants to look at it.
func screenshot(t *testing.T, p *browser.Page, name string) {
	t.Helper()
	if dir := os.Getenv("TETHER_SCREENSHOT_DIR"); dir != "" {
		p.Screenshot(t, filepath.Join(dir, name+".png"))
	}
}

// wantNoProblems checks that pages have asked nobody but their own server, and have not complained.
func wantNoProblems(t *testing.T, b *browser.Browser) {
	t.Helper()
	if refused := b.Refused(); len(refused) > 0 {
		t.Errorf("the pages asked for %q", refused)
	}
	if problems := b.Problems(); len(problems) > 0 {
		t.Errorf("the pages complain:\n%s", strings.Join(problems, "\n"))
	}
}
