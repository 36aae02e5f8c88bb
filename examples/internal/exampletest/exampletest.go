// Package exampletest runs the programs of the examples inside a test, and talks to them with a
// Socket.IO client over long-polling, which is as small as a real one can be.
package exampletest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

// patience is how long anything may take before a test gives up.
const patience = time.Minute

// Start runs a program until the test ends or stop is called, and returns the first thing that it
// prints. The program must end without an error within a few seconds of being told to.
func Start(t testing.TB, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error, args ...string) (printed string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context()) // so all programs of a test begin to end together
	stdout := make(lines, 64)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, args, stdout, t.Output()) }() // stop waits for it
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the program ended with: %v", err)
			}
		case <-time.After(patience):
			t.Error("the program does not end")
		}
	}
	t.Cleanup(stop)
	select {
	case printed = <-stdout:
	case err := <-ended:
		ended <- err
		t.Fatalf("the program ended early: %v", err)
	case <-time.After(patience):
		t.Fatal("the program prints nothing")
	}
	return printed, stop
}

// lines is a writer of which every Write is received as one text.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// Post sends body to url and returns the answer's status and body, without space around it.
func Post(t testing.TB, url, body string) (int, string) {
	t.Helper()
	return do(t, http.MethodPost, url, body, nil)
}

// Get returns the status and body of url.
func Get(t testing.TB, url string) (int, string) {
	t.Helper()
	return do(t, http.MethodGet, url, "", nil)
}

func do(t testing.TB, method, url, body string, header http.Header) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, strings.TrimSpace(string(text))
}

// Client is a Socket.IO client. It reads only while it is asked to.
type Client struct {
	t       testing.TB
	session string   // URL of the session
	packets []string // that have come and are not taken yet
}

// Connect opens a session at base, and asks for the namespace "/" with auth, "" for none. The answer
// is the first packet that Next returns.
func Connect(t testing.TB, base, auth string) *Client {
	t.Helper()
	return ConnectWith(t, base, auth, nil)
}

// ConnectQuery is Connect with a query for the handshake, and without auth.
func ConnectQuery(t testing.TB, base, query string) *Client {
	t.Helper()
	return connect(t, base+"/socket.io/?EIO=4&transport=polling&"+query, "", nil)
}

// ConnectWith is Connect with a header for the handshake.
func ConnectWith(t testing.TB, base, auth string, header http.Header) *Client {
	t.Helper()
	return connect(t, base+"/socket.io/?EIO=4&transport=polling", auth, header)
}

func connect(t testing.TB, url, auth string, header http.Header) *Client {
	t.Helper()
	c := &Client{t: t, session: url}
	var open struct {
		SID string `json:"sid"`
	}
	status, body := do(t, http.MethodGet, c.session, "", header)
	if status != http.StatusOK || json.Unmarshal([]byte(strings.TrimPrefix(body, "0")), &open) != nil || open.SID == "" {
		t.Fatalf("handshake: %d %s", status, body)
	}
	c.session += "&sid=" + open.SID
	t.Cleanup(c.close)
	c.Send("40" + auth)
	return c
}

// close ends the session, if it has not ended: its server need not wait for the client then.
func (c *Client) close() {
	answer, err := http.Post(c.session, "text/plain", strings.NewReader("1"))
	if err == nil {
		answer.Body.Close()
	}
}

// Send sends a packet, "42[…]" say.
func (c *Client) Send(packet string) {
	c.t.Helper()
	if status, body := Post(c.t, c.session, packet); status != http.StatusOK {
		c.t.Fatalf("send %s: %d %s", packet, status, body)
	}
}

// Emit sends an event.
func (c *Client) Emit(event string, args ...any) {
	c.t.Helper()
	text, err := json.Marshal(append([]any{event}, args...))
	if err != nil {
		c.t.Fatal(err)
	}
	c.Send("42" + string(text))
}

// Next returns the next packet, without those of the heartbeat.
func (c *Client) Next() string {
	c.t.Helper()
	for len(c.packets) == 0 {
		status, body := Get(c.t, c.session)
		if status != http.StatusOK {
			c.t.Fatalf("poll: %d %s", status, body)
		}
		for packet := range strings.SplitSeq(body, "\x1e") {
			switch packet {
			case "2":
				c.Send("3")
			case "6":
			default:
				c.packets = append(c.packets, packet)
			}
		}
	}
	packet := c.packets[0]
	c.packets = c.packets[1:]
	return packet
}

// Want fails the test unless the next packets are these. A want that ends in "…" is a beginning.
func (c *Client) Want(wants ...string) {
	c.t.Helper()
	for _, want := range wants {
		got := c.Next()
		beginning, open := strings.CutSuffix(want, "…")
		if got != want && !(open && strings.HasPrefix(got, beginning)) {
			c.t.Fatalf("got packet %s, want %s", got, want)
		}
	}
}

// JSON is the JSON of v.
func JSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(text)
}
