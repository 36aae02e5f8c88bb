package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// sharedBuffer is a buffer for several goroutines.
type sharedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *sharedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestTheErrorsThatClientsCauseAreForDebugging: none of them is the operator's business, and however much a
// client sends, a record stays short.
func TestTheErrorsThatClientsCauseAreForDebugging(t *testing.T) {
	var log sharedBuffer
	h := alone(t, Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	h.Of("/").On("number", func(_ context.Context, _ *Socket, m *Message) error { return m.Decode(0, new(int)) })
	h.Of("/").On("slow", func(context.Context, *Socket, *Message) error { return fmt.Errorf("emit: %w", ErrSlowConsumer) })
	h.Of("/").On("gone", func(context.Context, *Socket, *Message) error { return ErrDisconnected })
	h.Of("/").On("refused", func(context.Context, *Socket, *Message) error { return Refuse("no", nil) })
	h.Of("/").On("ours", func(_ context.Context, _ *Socket, m *Message) error {
		return fmt.Errorf("not a name: %q", m.Raw(0))
	})
	p, _ := connect(t, h)
	long := strings.Repeat("9", 100_000)
	for _, text := range []string{`2["number",` + long + `]`, `2["slow"]`, `2["gone"]`, `2["refused"]`, `2["ours",` + long + `]`} {
		p.say(text)
	}
	settled(t, p.client)
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(log.String()), "\n"), func(line string) bool {
		return strings.Contains(line, "broker answers") || strings.Contains(line, "msg=connected")
	})
	if len(lines) != 5 {
		t.Fatalf("%d records, want 5: %.2000s", len(lines), log.String())
	}
	for i, line := range lines {
		want := "level=DEBUG"
		if i == 4 {
			want = "level=ERROR" // an error of the application's, whatever is in it
		}
		if !strings.Contains(line, want) || len(line) > 1<<10 {
			t.Errorf("a record of %d bytes, want %s and fewer: %.300s", len(line), want, line)
		}
	}
}

// TestNobodyForgesTheLog has handlers, hooks and registrations fail for clients whose events, namespaces,
// user IDs, arguments and auth are hostile: each record is one line, says nothing of what was sent but
// a part of the names, and is short.
func TestNobodyForgesTheLog(t *testing.T) {
	const forged = "\n2026/11/22 level=ERROR msg=forged"
	for format, handler := range map[string]func(*sharedBuffer) slog.Handler{
		"text": func(b *sharedBuffer) slog.Handler {
			return slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
		"json": func(b *sharedBuffer) slog.Handler {
			return slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
	} {
		var log sharedBuffer
		h := alone(t, Options{Logger: slog.New(handler(&log)), Devices: Devices{Max: 1, RefuseNew: true}})
		namespace := "/" + strings.Repeat("é", 100) + "\u2028\u202e"
		for _, name := range []string{"/", namespace} {
			n := h.Of(name)
			n.OnConnect(func(ctx context.Context, s *Socket) error {
				return s.Register(ctx, "user"+forged+strings.Repeat("\x1b[31m", 50))
			})
			n.OnAny(func(_ context.Context, _ *Socket, m *Message) error {
				switch string(m.Raw(0)) {
				case `"decode"`:
					return m.Decode(0, new(int))
				case `"panic"`:
					panic("secret-payload")
				case `"index"`:
					_ = m.Args()[len(m.Event())+10]
				}
				return errors.New("fixed text")
			})
		}
		p, _ := connect(t, h)
		p.next() // the greeting
		refused := dial(t, h)
		refused.say(`0{"token":"secret-token"}`)
		refused.want(`44{"message":"too many devices"}`)
		p.end(ReasonTransportClose)
		for _, event := range []string{"a" + forged, "\r\n\x1b[2J\x00\u0085\u2028", strings.Repeat("é", 120), "level=ERROR", `"} {"level":"ERROR`} {
			name, err := json.Marshal(event)
			if err != nil {
				t.Fatal(err)
			}
			for _, kind := range []string{"error", "decode", "index", "panic"} {
				p := dial(t, h)
				p.say("0" + namespace + `,{"token":"secret-token"}`)
				p.joined(namespace)
				p.next() // the greeting
				p.say(fmt.Sprintf(`2%s,1[%s,%q,"secret-payload"]`, namespace, name, kind))
				settled(t, p.client)
				p.end(ReasonTransportClose)
			}
		}
		text := log.String()
		if strings.Contains(text, "secret") {
			t.Errorf("%s: a secret is in the log: %s", format, text)
		}
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\r\x00\u0085\u2028\u202e") {
			t.Errorf("%s: control characters are in the log: %q", format, text)
		}
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) < 15 {
			t.Errorf("%s: %d lines, want at least one for each failure", format, len(lines))
		}
		for _, line := range lines {
			start := map[string]string{"text": "time=", "json": `{"time":`}[format]
			if !strings.HasPrefix(line, start) || strings.Count(line, "level=ERROR") > 3 { // its own, and quoted in an event and a user
				t.Errorf("%s: a line of its own: %.300q", format, line)
			}
			if strings.Contains(line, "stack") {
				continue
			}
			if len(line) > 1<<10 {
				t.Errorf("%s: a record of %d bytes: %.200s…", format, len(line), line)
			}
		}
	}
}
