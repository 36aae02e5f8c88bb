package server

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/cmd/tether/internal/config"
	"tether/hub"
)

const emitKey = "emit-key-for-tests-only"

// TestAnAnswerSaysWhatTheReceiptSays: a lower bound is no exact number, and unknown is none at all.
func TestAnAnswerSaysWhatTheReceiptSays(t *testing.T) {
	none, zero := broker.Receipt{Bound: broker.Unknown}, broker.Receipt{}
	two, some := broker.Receipt{Nodes: 2}, broker.Receipt{Nodes: 1, Bound: broker.AtLeast}
	exact, more := hub.Receipt{Receipt: two, Live: none}, hub.Receipt{Receipt: some, Live: none}
	nobody, unknown := hub.Receipt{}, hub.Receipt{Receipt: none, Live: none}
	away, there, partly := hub.Receipt{Receipt: two, Live: zero}, hub.Receipt{Receipt: two, Live: two}, hub.Receipt{Receipt: two, Live: some}
	for _, c := range []struct {
		answer any
		want   string
	}{
		{AnswerOf(exact, false), `{"nodes":2}`},
		{AnswerOf(more, false), `{"nodes":1,"bound":"at least"}`},
		{AnswerOf(nobody, false), `{"nodes":0}`},
		{AnswerOf(unknown, false), `{"nodes":null}`},
		{AnswerOf(there, true), `{"nodes":2,"live":{"nodes":2}}`},
		{AnswerOf(partly, true), `{"nodes":2,"live":{"nodes":1,"bound":"at least"}}`},
		{AnswerOf(away, true), `{"nodes":2,"live":{"nodes":0}}`},
		{AnswerOf(nobody, true), `{"nodes":0,"live":{"nodes":0}}`},
		{AnswerOf(exact, true), `{"nodes":2,"live":{"nodes":null}}`},
		{answerOfMany([]hub.Receipt{exact, nobody}, false), `{"nodes":[2,0],"nobody":1}`},
		{answerOfMany([]hub.Receipt{more, unknown, nobody}, false), `{"nodes":[1,null,0],"bound":"at least","nobody":1}`},
		{answerOfMany([]hub.Receipt{there, away, exact, partly, nobody}, true),
			`{"nodes":[2,2,2,2,0],"nobody":1,"live":{"nodes":[2,0,null,1,0],"bound":"at least","nobody":2}}`},
	} {
		if got, err := json.Marshal(c.answer); err != nil || string(got) != c.want {
			t.Errorf("got %s, %v; want %s", got, err, c.want)
		}
	}
}

func TestRequestsBeyondTheLimitAreToldToComeBack(t *testing.T) {
	c := &config.Config{Emit: config.EmitConfig{MaxActive: 1, MaxBody: 1024}}
	a := newAPI(c, nil, nil, nil, nil, slog.New(slog.DiscardHandler))
	a.setKeys([]config.Secret{emitKey}, nil)
	serving, finish := make(chan struct{}), make(chan struct{})
	handler := a.guard(request{serve: func(context.Context, []byte) (any, error) {
		close(serving)
		<-finish
		return nil, nil
	}})
	ask := func() *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/emit", strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer "+emitKey)
		handler.ServeHTTP(w, r)
		return w
	}
	first := make(chan int)
	go func() { first <- ask().Code }()
	<-serving
	if w := ask(); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
	close(finish)
	if code := <-first; code != http.StatusOK {
		t.Errorf("got %d", code)
	}
}

func TestFailuresAreLoggedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := &config.Config{Emit: config.EmitConfig{MaxActive: 1, MaxBody: 1024, Timeout: time.Second}}
		a := newAPI(c, nil, nil, nil, nil, slog.New(slog.NewJSONHandler(&out, nil)))
		a.setKeys([]config.Secret{emitKey}, nil)
		handler := a.guard(request{serve: func(context.Context, []byte) (any, error) { return nil, broker.ErrUnavailable }})
		for range 3 {
			for range 100 {
				w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/emit", strings.NewReader("{}"))
				r.Header.Set("Authorization", "Bearer "+emitKey)
				handler.ServeHTTP(w, r)
				if w.Code != http.StatusServiceUnavailable {
					t.Fatalf("got %d", w.Code)
				}
			}
			time.Sleep(time.Second)
		}
		var alike []int
		for line := range strings.Lines(out.String()) {
			var in struct {
				Level string
				Alike int
			}
			if err := json.Unmarshal([]byte(line), &in); err != nil || in.Level != "WARN" {
				t.Errorf("got %s %v", line, err)
			}
			alike = append(alike, in.Alike)
		}
		if want := []int{0, 99, 99}; !slices.Equal(alike, want) {
			t.Errorf("got %v, want %v", alike, want)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"user":"42","event":"x","args":[1]}`, `{"user":42}`, `{"user":null}`, `{"user":1e999}`, `{"everyone":true}`, `{}`, ``, `null`, `{"user":-0}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var in struct {
			target
			event
		}
		if err := decode(body, &in); err != nil {
			return
		}
		if in.User != nil && *in.User == "" {
			t.Errorf("%q is a user without a name", body)
		}
	})
}
