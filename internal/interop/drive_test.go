package interop

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait for something that is sure to come.
const patience = time.Minute

// driver is a process with real clients in it, client.js or client.py. It takes one command a line:
//
//	{"id":1,"do":"connect","client":"a","url":"http://…","namespace":"/x","share":"b","options":{…}}
//	{"id":2,"do":"emit","client":"a","event":"e","args":[…]}          also "volatile"
//	{"id":3,"do":"call","client":"a","event":"e","args":[…],"timeout":1000}
//	{"id":4,"do":"burst","client":"a","event":"e","n":100}
//	{"id":5,"do":"disconnect","client":"a"}                           also "reconnect", "restart", "transport"
//	{"id":6,"do":"pause","timeout":100}
//	{"id":7,"do":"lose","client":"a"}                                 the connection, which it makes again
//	{"id":8,"do":"move","client":"a","url":"http://…"}                where it makes its next connection
//
// answers each with {"id":…}, with "args" if there is an answer and "error" if there is none, and says
// what happens to its clients: {"client":"a","event":"e","args":[…]}, or "on" in place of "event":
// connect, connect_error, disconnect, upgrade. Clients answer an event that wants an ack with its
// arguments, unless the first one is "silence". Bytes are {"$bin":"<base64>"}.
type driver struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{} // closed when standard output has ended

	mu      sync.Mutex
	lastID  int                // guarded by mu
	pending map[int]chan line  // guarded by mu
	clients map[string]*client // guarded by mu
	stderr  strings.Builder    // guarded by mu
}

// line is one line from a driver.
type line struct {
	ID        int    `json:"id"`
	Ready     bool   `json:"ready"`
	Error     string `json:"error"`
	Client    string `json:"client"`
	Event     string `json:"event"`
	On        string `json:"on"`
	Args      []any  `json:"args"`
	SID       string `json:"sid"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
	Data      any    `json:"data"`
	Active    bool   `json:"active"`
	Transport string `json:"transport"`
	Recovered bool   `json:"recovered"`
}

func (l line) String() string {
	if l.On != "" {
		return fmt.Sprintf("on %s sid=%q reason=%q message=%q data=%v", l.On, l.SID, l.Reason, l.Message, l.Data)
	}
	return fmt.Sprintf("event %q %.300v", l.Event, l.Args)
}

// startDriver starts a driver, which lives until close.
func startDriver(name string, args []string, env ...string) (*driver, error) {
	d := &driver{
		cmd:     exec.Command(name, args...),
		ended:   make(chan struct{}),
		pending: map[int]chan line{},
		clients: map[string]*client{},
	}
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stderr = d
	var err error
	if d.stdin, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	ready := make(chan line, 1)
	d.pending[0] = ready
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go d.read(stdout) // close waits for ended
	select {
	case <-ready:
		return d, nil
	case <-d.ended:
		err = d.cmd.Wait()
		return nil, fmt.Errorf("%v: %s", err, d.complaints())
	case <-time.After(patience):
		d.close()
		return nil, fmt.Errorf("%s does not start", name)
	}
}

// Write takes the standard error of the process.
func (d *driver) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stderr.Len() < 64<<10 {
		d.stderr.Write(b)
	}
	return len(b), nil
}

func (d *driver) complaints() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.String()
}

func (d *driver) close() {
	d.stdin.Close()
	kill := time.AfterFunc(5*time.Second, func() { d.cmd.Process.Kill() })
	<-d.ended
	d.cmd.Wait()
	kill.Stop()
}

func (d *driver) read(stdout io.Reader) {
	defer close(d.ended)
	r := bufio.NewReader(stdout)
	for {
		data, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var l line
		if err := json.Unmarshal(data, &l); err != nil {
			fmt.Fprintf(d, "not a line of JSON: %.200s\n", data)
			continue
		}
		d.mu.Lock()
		c, reply := d.clients[l.Client], d.pending[l.ID]
		if l.Client == "" {
			delete(d.pending, l.ID)
		}
		d.mu.Unlock()
		switch {
		case c != nil:
			c.take(l)
		case l.Client == "" && reply != nil:
			reply <- l
		}
	}
}

// do sends a command and waits for its answer.
func (d *driver) do(t testing.TB, command map[string]any) line {
	t.Helper()
	reply := make(chan line, 1)
	d.mu.Lock()
	d.lastID++
	id := d.lastID
	d.pending[id] = reply
	d.mu.Unlock()
	command["id"] = id
	data, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.stdin.Write(append(data, '\n')); err != nil {
		t.Fatalf("the client's process is gone: %v\n%s", err, d.complaints())
	}
	select {
	case l := <-reply:
		return l
	case <-d.ended:
		t.Fatalf("the client's process is gone\n%s", d.complaints())
	case <-time.After(patience):
		t.Fatalf("no answer to %s\n%s", data, d.complaints())
	}
	panic("unreachable")
}

// must is do for a command that cannot fail.
func (d *driver) must(t testing.TB, command map[string]any) line {
	t.Helper()
	l := d.do(t, command)
	if l.Error != "" {
		t.Fatalf("%v: %s\n%s", command["do"], l.Error, d.complaints())
	}
	return l
}

// client is one real client in a driver. What it says is kept in order; upgrades are kept apart,
// because nothing orders them.
type client struct {
	d    *driver
	name string

	mu       sync.Mutex
	lines    []line        // guarded by mu
	more     chan struct{} // has a token when lines has grown
	upgraded chan struct{} // closed at the first upgrade
	once     sync.Once
}

// dial makes a client connect, and returns at once.
func (d *driver) dial(t testing.TB, url, namespace string, options map[string]any) *client {
	t.Helper()
	return d.dialShared(t, nil, url, namespace, options)
}

// dialShared makes a client of another namespace on the connection of with.
func (d *driver) dialShared(t testing.TB, with *client, url, namespace string, options map[string]any) *client {
	t.Helper()
	c := &client{d: d, more: make(chan struct{}, 1), upgraded: make(chan struct{})}
	d.mu.Lock()
	c.name = fmt.Sprint("c", len(d.clients)+1)
	d.clients[c.name] = c
	d.mu.Unlock()
	share := ""
	if with != nil {
		share = with.name
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s was left with %.2000s", c.name, fmt.Sprint(c.rest()))
		}
		d.do(t, map[string]any{"do": "disconnect", "client": c.name})
	})
	d.must(t, map[string]any{"do": "connect", "client": c.name, "url": url, "namespace": namespace, "share": share, "options": options})
	return c
}

func (c *client) take(l line) {
	if l.On == "upgrade" {
		c.once.Do(func() { close(c.upgraded) })
		return
	}
	c.mu.Lock()
	c.lines = append(c.lines, l)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *client) rest() []line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines
}

// next is the next thing that happens.
func (c *client) next(t testing.TB) line {
	t.Helper()
	late := time.After(patience)
	for {
		c.mu.Lock()
		if len(c.lines) > 0 {
			l := c.lines[0]
			c.lines = c.lines[1:]
			c.mu.Unlock()
			return l
		}
		c.mu.Unlock()
		select {
		case <-c.more:
		case <-late:
			t.Fatalf("nothing happens to %s\n%s", c.name, c.d.complaints())
		}
	}
}

// on fails the test unless the next thing that happens is that.
func (c *client) on(t testing.TB, what string) line {
	t.Helper()
	l := c.next(t)
	if l.On != what {
		t.Fatalf("%s: got %v, want on %s\n%s", c.name, l, what, c.d.complaints())
	}
	return l
}

// event fails the test unless the next thing that happens is that event with these arguments.
func (c *client) event(t testing.TB, event string, args ...any) {
	t.Helper()
	l := c.next(t)
	if want := plain(args); l.Event != event || !reflect.DeepEqual(l.Args, want) {
		t.Fatalf("%s: got %v, want event %q %.300v", c.name, l, event, want)
	}
}

func (c *client) emit(t testing.TB, event string, args ...any) {
	t.Helper()
	c.d.must(t, map[string]any{"do": "emit", "client": c.name, "event": event, "args": plain(args)})
}

// call emits an event and waits for its ack.
func (c *client) call(t testing.TB, event string, args ...any) []any {
	t.Helper()
	l := c.d.must(t, map[string]any{"do": "call", "client": c.name, "event": event, "args": plain(args), "timeout": patience.Milliseconds() / 2})
	return l.Args
}

// tell gives the client a command without arguments.
func (c *client) tell(t testing.TB, do string) line {
	t.Helper()
	return c.d.must(t, map[string]any{"do": do, "client": c.name})
}

// quiet fails the test if anything happens within a tenth of a second. It is for what a mistake would
// cause at once; where that can be ordered after something visible, that is better.
func (c *client) quiet(t testing.TB) {
	t.Helper()
	c.d.must(t, map[string]any{"do": "pause", "timeout": 100})
	if rest := c.rest(); len(rest) > 0 {
		t.Fatalf("%s: got %v, want nothing", c.name, rest)
	}
}

// bin is bytes in arguments.
func bin(b ...byte) map[string]any {
	return map[string]any{"$bin": base64.StdEncoding.EncodeToString(b)}
}

// plain is args as they are after a trip through JSON.
func plain(args []any) []any {
	out := []any{}
	data, err := json.Marshal(args)
	if err != nil {
		panic(err) // a test's mistake
	}
	if err := json.Unmarshal(data, &out); err != nil {
		panic(err)
	}
	if out == nil {
		out = []any{}
	}
	return out
}
