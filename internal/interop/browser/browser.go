// Package browser drives a headless Chromium from Go tests, over the pipe of its DevTools protocol:
// no port, and no library. Pages reach loopback addresses and what a test serves in the place of
// another address; everything else is refused and can be asked for.
package browser

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// timeout bounds every wait for the browser.
const timeout = 30 * time.Second

// Find returns the path of a Chromium: $TETHER_CHROMIUM, or one of the usual names.
func Find() (string, error) {
	if path := os.Getenv("TETHER_CHROMIUM"); path != "" {
		return path, nil
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no chromium on PATH or in TETHER_CHROMIUM")
}

// Browser is a running Chromium. It ends with the test that started it.
type Browser struct {
	cmd  *exec.Cmd
	conn *conn

	mu       sync.Mutex
	routes   map[string]response // guarded by mu
	refused  []string            // guarded by mu
	problems []string            // guarded by mu
}

type response struct {
	contentType string
	body        []byte
}

// Start runs the Chromium at path with a fresh profile.
func Start(t testing.TB, path string) *Browser {
	t.Helper()
	profile, err := os.MkdirTemp("", "tether-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	commands, toBrowser := pipe(t)
	fromBrowser, answers := pipe(t)

	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--window-size=1200,900", "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
		"--user-data-dir="+profile, "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{commands, answers} // descriptors 3 and 4
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", filepath.Base(path), err)
	}
	commands.Close()
	answers.Close()

	b := &Browser{cmd: cmd, routes: map[string]response{}}
	b.conn = newConn(fromBrowser, toBrowser, b.event)
	t.Cleanup(b.stop)
	return b
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// stop asks the browser to end, ends it if it does not, and waits for what was started.
func (b *Browser) stop() {
	b.conn.send("", "Browser.close", nil, nil)
	kill := time.AfterFunc(5*time.Second, func() { killGroup(b.cmd) })
	b.cmd.Wait()
	kill.Stop()
	killGroup(b.cmd) // helpers that outlived it
	b.conn.close()
}

// Route answers requests for exactly that URL with body.
func (b *Browser) Route(url, contentType string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.routes[url] = response{contentType, body}
}

// Refused returns the URLs that pages asked for and did not get, because they are neither on this
// machine nor routed.
func (b *Browser) Refused() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.refused)
}

// Problems returns the exceptions and errors that pages reported.
func (b *Browser) Problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.problems)
}

// event takes what the browser tells without being asked. It must not wait for the browser.
func (b *Browser) event(session, method string, params json.RawMessage) {
	switch method {
	case "Fetch.requestPaused":
		var p struct {
			RequestID string `json:"requestId"`
			Request   struct {
				URL string `json:"url"`
			} `json:"request"`
		}
		if json.Unmarshal(params, &p) == nil {
			b.request(session, p.RequestID, p.Request.URL)
		}
	case "Runtime.exceptionThrown":
		b.problem(params)
	case "Log.entryAdded":
		if bytes.Contains(params, []byte(`"level":"error"`)) {
			b.problem(params)
		}
	}
}

func (b *Browser) problem(params json.RawMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, string(params))
}

// request lets a request pass, answers it, or refuses it.
func (b *Browser) request(session, id, address string) {
	b.mu.Lock()
	route, routed := b.routes[address]
	local := isLocal(address)
	if !routed && !local {
		b.refused = append(b.refused, address)
	}
	b.mu.Unlock()
	switch {
	case routed:
		b.conn.send(session, "Fetch.fulfillRequest", map[string]any{
			"requestId":    id,
			"responseCode": 200,
			"responseHeaders": []map[string]string{
				{"name": "Content-Type", "value": route.contentType},
				{"name": "Access-Control-Allow-Origin", "value": "*"},
			},
			"body": base64.StdEncoding.EncodeToString(route.body),
		}, nil)
	case local:
		b.conn.send(session, "Fetch.continueRequest", map[string]any{"requestId": id}, nil)
	default:
		b.conn.send(session, "Fetch.failRequest", map[string]any{"requestId": id, "errorReason": "BlockedByClient"}, nil)
	}
}

func isLocal(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	host := u.Hostname()
	return u.Scheme == "data" || u.Scheme == "blob" || host == "127.0.0.1" || host == "localhost" || strings.HasSuffix(host, ".localhost") || host == "::1"
}

// call sends a command and decodes its result into result, which may be nil.
func (b *Browser) call(t testing.TB, session, method string, params, result any) {
	t.Helper()
	reply := make(chan answer, 1)
	b.conn.send(session, method, params, reply)
	select {
	case a := <-reply:
		if a.err != nil {
			t.Fatalf("browser: %s: %v", method, a.err)
		}
		if result != nil {
			if err := json.Unmarshal(a.result, result); err != nil {
				t.Fatalf("browser: %s: %v", method, err)
			}
		}
	case <-b.conn.done:
		t.Fatalf("browser: %s: the browser is gone", method)
	case <-time.After(timeout):
		t.Fatalf("browser: %s: no answer", method)
	}
}

// answer is the answer to one command.
type answer struct {
	result json.RawMessage
	err    error
}

// pageError is an exception in a page.
func pageError(text, description string) error {
	if description != "" {
		text = description
	}
	return fmt.Errorf("in the page: %s", text)
}
