package hub

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"tether/broker/memory"
	"tether/engine"
)

// book is a log that several goroutines write to.
type book struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *book) line(t *testing.T, msg string) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.buf.String()) {
		if strings.Contains(line, "msg="+msg+" ") {
			return line
		}
	}
	t.Errorf("no line says %s:\n%s", msg, b.buf.String())
	return ""
}

// TestALineOfTheLogTellsWhoWhereAndWhy, and by the public name of the connection, not by its secret.
func TestALineOfTheLogTellsWhoWhereAndWhy(t *testing.T) {
	var log book
	h := start(t, memory.NewBus().Broker(), Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	gone := make(chan struct{}, 1)
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Register(ctx, "42") })
	h.Of("/").OnDisconnect(func(*Socket, Reason) { gone <- struct{}{} })
	h.Of("/no").OnConnect(func(context.Context, *Socket) error { return Refuse("not you", nil) })
	p, s := connect(t, h)
	p.next() // the greeting
	p.say("0/no,")
	p.want(`44/no,{"message":"not you"}`)
	p.client.Text([]byte("7")) // there is no such type
	if user := p.client.LogValue().String(); user != "42" {
		t.Errorf("the user of the connection is %q", user)
	}
	p.end(ReasonParseError)
	<-gone
	if user := p.client.LogValue().String(); user != "42" {
		t.Errorf("the user of the connection that has ended is %q", user)
	}
	who := "connection=" + engine.PublicID("secret") + " "
	for msg, parts := range map[string][]string{
		"connected":                      {who, "namespace=/ ", "socket=" + s.ID(), "user=42", "transport=websocket"},
		`"a client is refused"`:          {who, "namespace=/no ", `reason="not you"`},
		`"a client breaks the protocol"`: {who, "error="},
		"disconnected":                   {who, "namespace=/ ", "socket=" + s.ID(), "user=42", `reason="parse error"`},
	} {
		line := log.line(t, msg)
		for _, part := range parts {
			if !strings.Contains(line, part) {
				t.Errorf("%s: %q is not in %s", msg, part, line)
			}
		}
		if strings.Contains(line, "secret") {
			t.Errorf("the ID of the session is in %s", line)
		}
	}
}
