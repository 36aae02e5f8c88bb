package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/hub"
	"tether/revoke"
	"tether/transport"
)

func TestHealthSaysInWordsWhatIsWrong(t *testing.T) {
	h, err := hub.New(memory.NewBus().Broker(), hub.Options{Node: "a", DrainWindow: -1})
	if err != nil {
		t.Fatal(err)
	}
	list, err := revoke.New(h, revoke.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	stopping := make(chan struct{})
	mux := http.NewServeMux()
	check := health{hub: h, list: list, sockets: sockets, stopping: stopping, started: time.Now(), maxConns: 1, maxQueue: 1 << 20}
	check.routes(mux)
	ask := func(path string) (int, condition) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var c condition
		if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		return w.Code, c
	}
	want := func(when string, status int, ready, reason, warning string) {
		t.Helper()
		for path, at := range map[string]int{"/healthz": http.StatusOK, "/readyz": status} {
			code, c := ask(path)
			got := strings.Join(c.Warnings, "; ")
			if code != at || c.Node != "a" || !strings.HasPrefix(c.Reason, reason) || (reason == "") != (c.Reason == "") ||
				!strings.Contains(got, warning) || (warning == "") != (got == "") {
				t.Errorf("%s, %s: got %d %+v", when, path, code, c)
			}
			if path == "/readyz" && c.Status != ready {
				t.Errorf("%s: got %q", when, c.Status)
			}
		}
	}
	want("before it runs", http.StatusServiceUnavailable, "not ready", "starting", "")

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }() // waited for below
	for {
		if _, err := h.Members(); h.Ready() == nil && list.Ready() == nil && err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	want("while it runs", http.StatusOK, "ready", "", "")

	r := httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=polling", nil)
	sockets.ServeHTTP(httptest.NewRecorder(), r)
	want("with all connections in use", http.StatusOK, "ready", "", "1 of 1 connections are in use")

	close(stopping)
	want("told to stop", http.StatusServiceUnavailable, "not ready", "draining: this node has been told", "1 of 1 connections")
	check.stopping = nil
	mux = http.NewServeMux()
	check.routes(mux)
	stop()
	<-ended
	want("after the drain", http.StatusServiceUnavailable, "not ready", "draining: this node sends", "")
}
