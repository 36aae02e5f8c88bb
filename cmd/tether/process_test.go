package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/internal/backend"
	"tether/internal/client"
	"tether/internal/long"
)

// The test binary is the program, too, when it is started with this variable.
const asProgram = "RUN_AS_TETHER"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // of commands that run within this process
	long.Parallel(6)
	os.Exit(m.Run())
}

// patience is for what takes milliseconds; a machine under load may need more.
const patience = 30 * time.Second

// process is a server that runs, as a program of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string

	mu    sync.Mutex
	lines []map[string]any // of the log; guarded by mu
	text  bytes.Buffer     // all of it; guarded by mu
	more  chan struct{}    // closed and replaced when a line comes; guarded by mu
	done  chan struct{}    // the log has ended and the process was waited for
}

// tetherCommand is the program with exactly this environment, not yet started.
func tetherCommand(args, environ []string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append([]string{asProgram + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, environ...)
	return cmd
}

// brokers are those that a test runs on: in the default run the one that most stacks have.
func brokers(t testing.TB) map[string]*backend.Server {
	all := map[string]*backend.Server{"Redis": backend.Redis(t)}
	if long.Or(false, true) {
		all["NATS"] = backend.NATS(t)
	}
	return all
}

const (
	testTokenKey = "C5htavmWz6qefupiS2ol3iEstvDvUqtCA5DoX+csIFA="
	testEmitKey  = "emit-key-for-tests-only"
)

// enough is the least environment that a server starts with.
var enough = []string{"TETHER_AUTH_KEYS=" + testTokenKey, "TETHER_EMIT_KEYS=" + testEmitKey}

// start runs a server on a free port and returns once it listens.
func start(t *testing.T, environ []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, more: make(chan struct{}), done: make(chan struct{})}
	p.cmd = tetherCommand(append([]string{"serve", "--addr=127.0.0.1:0", "--log.format=json", "--drain.delay=0s", "--drain.window=0s"}, args...), environ)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process, which the cleanup waits for
		defer close(p.done)
		p.read(stderr)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("log of the server:\n%s", p.log())
		}
	})
	p.addr, _ = p.waitLog("listening")["addr"].(string)
	return p
}

func (p *process) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var line map[string]any
		_ = json.Unmarshal(lines.Bytes(), &line)
		p.mu.Lock()
		p.text.Write(append(lines.Bytes(), '\n'))
		p.lines = append(p.lines, line)
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// waitLog returns the first line with the message that no earlier call has returned.
func (p *process) waitLog(message string) map[string]any {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		ended := p.ended() // before looking: what it has said until then is there
		p.mu.Lock()
		more := p.more
		for i, line := range p.lines {
			if text, _ := line["msg"].(string); strings.HasPrefix(text, message) {
				p.lines = append(p.lines[:i:i], p.lines[i+1:]...)
				p.mu.Unlock()
				return line
			}
		}
		p.mu.Unlock()
		if ended {
			p.t.Fatalf("the server ended with %v before it said %q:\n%s", p.cmd.ProcessState, message, p.log())
		}
		select {
		case <-more:
		case <-p.done:
		case <-timeout:
			p.t.Fatalf("the server did not say %q:\n%s", message, p.log())
		}
	}
}

// ended reports whether the process has ended, and all that it said has been read.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("the server does not end")
		return -1
	}
}

func (p *process) url() string { return "http://" + p.addr }

// answer is the status and the body of an answer.
type answer struct {
	status int
	body   string
}

// get asks without a key.
func (p *process) get(path string) answer {
	p.t.Helper()
	return p.request(http.MethodGet, path, "", "")
}

// post asks with a key.
func (p *process) post(path, key, body string) answer {
	p.t.Helper()
	return p.request(http.MethodPost, path, "Bearer "+key, body)
}

func (p *process) request(method, path, authorization, body string) answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url()+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer{res.StatusCode, strings.TrimSpace(string(data))}
}

// ready waits until /readyz says so.
func (p *process) ready() *process {
	p.t.Helper()
	p.until("/readyz", http.StatusOK)
	return p
}

// until asks until the answer has the status.
func (p *process) until(path string, status int) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		a := p.get(path)
		if a.status == status {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s is still %d %s", path, a.status, a.body)
		}
		<-time.After(20 * time.Millisecond) // there is nothing to wait on but the answer itself
	}
}

// dial connects a client and ends it with the test.
func dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := tryDial(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryDial(t *testing.T, o client.Options) (*client.Client, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, o)
	if err == nil {
		t.Cleanup(c.Close)
	}
	return c, err
}

// dialUser connects a client with a token for the user, and waits for the greeting.
func dialUser(t *testing.T, o client.Options, user string) *client.Client {
	t.Helper()
	o.Auth = map[string]string{"token": tokenFor(t, user, time.Hour)}
	c := dial(t, o)
	if got := next(t, c); got != `/ops/connection-success [{"message":"Successfully connected"}]` {
		t.Fatalf("greeting: got %s", got)
	}
	return c
}

func tokenFor(t *testing.T, user string, ttl time.Duration) string {
	t.Helper()
	ring, err := config.Keyring([]config.Secret{testTokenKey})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ring.SealUser(user, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// next is the next event of the client, as "name [args]".
func next(t *testing.T, c *client.Client) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := c.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	args, err := json.Marshal(e.Args)
	if err != nil {
		t.Fatal(err)
	}
	return e.Name + " " + string(args)
}
