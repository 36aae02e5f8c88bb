package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"time"

	"tether/broker"
	"tether/clientjs"
	"tether/hub"
)

//go:embed page
var files embed.FS

const (
	tokenLife   = time.Hour
	maxBody     = 64 << 10 // bytes; a message says so
	emitTimeout = 2 * time.Second

	// What the page may load: what comes from here.
	policy = "default-src 'self'; img-src data:; frame-ancestors 'none'"
)

// mountPage serves the page of the i-th node, and what it asks of its server.
func (c *cluster) mountPage(mux *http.ServeMux, i int, h *hub.Hub) {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the directory is part of this program
	}
	index := template.Must(template.ParseFS(page, "index.html"))

	mux.Handle("/", http.FileServerFS(page))
	mux.Handle("GET /socket.io.min.js", clientjs.Handler())
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { ready(w, h) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		index.Execute(w, c.view(i))
	})
	// A page of another site must not log in or emit through the visitor's browser; curl may.
	guard := http.NewCrossOriginProtection()
	mux.Handle("POST /login", guard.Handler(http.HandlerFunc(c.login)))
	mux.Handle("POST /emit", guard.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		emit(w, r, h.Emitter())
	})))
}

type view struct {
	Node  string
	Nodes []link
}

type link struct {
	Name, URL string
	Here      bool
}

func (c *cluster) view(i int) view {
	v := view{Node: c.name(i)}
	for j := range c.listeners {
		v.Nodes = append(v.Nodes, link{c.name(j), c.url(j), j == i})
	}
	return v
}

// ready tells the page whether events reach this node: a client stays connected while the broker is away.
func ready(w http.ResponseWriter, h *hub.Hub) {
	if err := h.Ready(); err != nil {
		answer(w, http.StatusServiceUnavailable, failure{err.Error()})
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// login answers with a token for any user whom the visitor names.
func (c *cluster) login(w http.ResponseWriter, r *http.Request) {
	var req struct {
		User string `json:"user"`
	}
	if !read(w, r, &req) {
		return
	}
	tok, err := c.keys.SealUser(req.User, tokenLife)
	if err != nil {
		answer(w, http.StatusBadRequest, failure{err.Error()})
		return
	}
	answer(w, http.StatusOK, map[string]string{"token": tok})
}

// emit emits what the request says, and answers with the receipt.
func emit(w http.ResponseWriter, r *http.Request, emitter *hub.Emitter) {
	var req struct {
		User  string            `json:"user"`
		Event string            `json:"event"`
		Args  []json.RawMessage `json:"args"`
	}
	if !read(w, r, &req) {
		return
	}
	if req.User == "" || req.Event == "" {
		answer(w, http.StatusBadRequest, failure{`the request needs a "user" and an "event"`})
		return
	}
	args := make([]any, len(req.Args))
	for i, raw := range req.Args {
		args[i] = raw
	}

	ctx, cancel := context.WithTimeout(r.Context(), emitTimeout)
	defer cancel()
	receipt, err := emitter.Emit(ctx, hub.User(req.User), req.Event, args...)
	switch {
	case err == nil:
		taken := taken{Receipt: receipt.String()}
		if receipt.Bound != broker.Unknown {
			taken.Nodes = &receipt.Nodes
		}
		answer(w, http.StatusOK, taken)
	case errors.Is(err, hub.ErrEvent), errors.Is(err, broker.ErrTooLarge):
		answer(w, http.StatusBadRequest, failure{err.Error()})
	default: // the broker did not take it
		answer(w, http.StatusServiceUnavailable, failure{err.Error()})
	}
}

type taken struct {
	Receipt string `json:"receipt"` // in words
	Nodes   *int   `json:"nodes"`   // nil: the broker cannot tell
}

type failure struct {
	Error string `json:"error"`
}

// read reads the JSON of a request into v. Where that fails it answers, and reports false.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		answer(w, http.StatusRequestEntityTooLarge, failure{"the request is too large: this page takes 64 KiB"})
	case err != nil:
		answer(w, http.StatusBadRequest, failure{"the request is not the JSON that it should be: " + err.Error()})
	}
	return err == nil
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
