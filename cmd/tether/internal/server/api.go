package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/otlp"
	"tether/hub"
	"tether/refresh"
	"tether/revoke"
	"tether/transport"
	"tether/webhook"
)

// api is the HTTP interface that any language emits through.
type api struct {
	config  *config.Config // of the start
	hub     *hub.Hub
	list    *revoke.List
	tokens  *refresh.Refresher // nil if clients are anonymous
	traces  *otlp.Traces       // nil: there are none
	hooks   *webhook.Sender    // nil: nobody is told
	sockets *transport.Handler
	metrics http.Handler
	log     *slog.Logger
	started time.Time

	emitKeys  atomic.Pointer[[]keyHash] // for all requests; replaced as a whole by a reload
	statsKeys atomic.Pointer[[]keyHash] // for GET /stats, beside the others; likewise
	active    chan struct{}             // one token for each request with a key that is being served
	unkeyed   chan struct{}             // likewise for those without, so that they take no place from the others

	failures throttle
}

type keyHash [sha256.Size]byte

func newAPI(c *config.Config, h *hub.Hub, list *revoke.List, sockets *transport.Handler, metrics http.Handler, log *slog.Logger) *api {
	return &api{
		config: c, hub: h, list: list, sockets: sockets, metrics: metrics, log: log, started: time.Now(),
		active: make(chan struct{}, c.Emit.MaxActive), unkeyed: make(chan struct{}, c.Emit.MaxActive),
	}
}

// setKeys is called before the API serves, too.
func (a *api) setKeys(emit, stats []config.Secret) {
	a.emitKeys.Store(hashesOf(emit))
	a.statsKeys.Store(hashesOf(stats))
}

func hashesOf(keys []config.Secret) *[]keyHash {
	hashes := make([]keyHash, len(keys))
	for i, k := range keys {
		hashes[i] = sha256.Sum256([]byte(k))
	}
	return &hashes
}

// request is one that the API serves.
type request struct {
	method, path string
	key          keyKind
	serve        func(ctx context.Context, body []byte) (any, error)
}

// keyKind says which keys open a request.
type keyKind int

const (
	needsEmitKey  keyKind = iota // one of emit.keys
	needsStatsKey                // one of stats.keys is good enough
	needsNoKey                   // what is in the body has to be
)

// served reports whether the configuration has the request served.
func (a *api) served(r request) bool {
	switch r.key {
	case needsStatsKey:
		return a.config.Emit.Enabled || len(a.config.Stats.Keys) > 0
	case needsNoKey:
		return a.tokens != nil
	}
	return a.config.Emit.Enabled
}

// routes adds the routes to the mux.
func (a *api) routes(mux *http.ServeMux) {
	requests := []request{
		{http.MethodPost, "/emit", needsEmitKey, a.emit},
		{http.MethodPost, "/emit/batch", needsEmitKey, a.emitBatch},
		{http.MethodPost, "/disconnect", needsEmitKey, a.disconnect},
		{http.MethodPost, "/sockets", needsEmitKey, a.fetch},
		{http.MethodPost, "/join", needsEmitKey, a.join},
		{http.MethodPost, "/leave", needsEmitKey, a.leave},
		{http.MethodPost, "/ask", needsEmitKey, a.ask},
		{http.MethodPost, "/online", needsEmitKey, a.online},
		{http.MethodPost, "/revoke", needsEmitKey, a.revoke},
		{http.MethodPost, "/refresh", needsNoKey, a.refresh},
		{http.MethodGet, "/stats", needsStatsKey, a.stats},
	}
	for _, r := range requests {
		if !a.served(r) {
			continue
		}
		mux.Handle(r.method+" "+r.path, a.guard(r))
		mux.HandleFunc(r.path, func(w http.ResponseWriter, _ *http.Request) { // any other method
			w.Header().Set("Allow", r.method)
			writeJSON(w, http.StatusMethodNotAllowed, map[string]string{"error": "the method is " + r.method})
		})
	}
	if a.config.Emit.Enabled || len(a.config.Stats.Keys) > 0 {
		mux.HandleFunc("GET /metrics", a.serveMetrics)
	}
}

// serveMetrics is for Prometheus, which has a key of its own kind of request: it sends no JSON, and takes none.
func (a *api) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if !a.hasKey(r, needsStatsKey) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tether"`)
		http.Error(w, keyNeeded(needsStatsKey), http.StatusUnauthorized)
		return
	}
	a.metrics.ServeHTTP(w, r)
}

func (a *api) emit(ctx context.Context, body []byte) (any, error) {
	var in struct {
		target
		event
		Live bool `json:"live"` // ask where clients are connected
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	e, to, err := a.targeted(in.target)
	if err != nil {
		return nil, err
	}
	name, args, err := in.parts()
	if err != nil {
		return nil, err
	}
	if in.Live {
		e = e.AskLive()
	}
	receipt, err := e.Emit(ctx, to, name, args...)
	if err != nil {
		return nil, err
	}
	return AnswerOf(receipt, in.Live), nil
}

func (a *api) emitBatch(ctx context.Context, body []byte) (any, error) {
	var in struct {
		Users     []userID `json:"users"`
		Rooms     []string `json:"rooms"`
		Namespace string   `json:"namespace"`
		event
		Live bool `json:"live"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	e, err := a.emitter(in.Namespace)
	if err != nil {
		return nil, err
	}
	to := make([]hub.Target, 0, len(in.Users)+len(in.Rooms))
	for _, u := range in.Users {
		to = append(to, hub.User(string(u)))
	}
	for _, r := range in.Rooms {
		if r == "" {
			return nil, badRequest(errors.New(`a room is empty; for all sockets POST /emit with "everyone":true`))
		}
		to = append(to, hub.Room(r))
	}
	switch {
	case len(to) == 0:
		return nil, badRequest(errors.New(`"users" or "rooms" is needed`))
	case len(to) > a.config.Emit.MaxTargets:
		return nil, badRequest(fmt.Errorf("%d targets; the limit is %d", len(to), a.config.Emit.MaxTargets))
	}
	name, args, err := in.parts()
	if err != nil {
		return nil, err
	}
	if in.Live {
		e = e.AskLive()
	}
	receipts, err := e.EmitMany(ctx, to, name, args...)
	if err != nil {
		return nil, err
	}
	return answerOfMany(receipts, in.Live), nil
}

func (a *api) disconnect(ctx context.Context, body []byte) (any, error) {
	var in struct {
		target
		Close bool `json:"close"` // the connection too, not only the namespace
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	e, to, err := a.targeted(in.target)
	if err != nil {
		return nil, err
	}
	changed, err := e.Disconnect(ctx, to, in.Close)
	if err != nil {
		return nil, err
	}
	return ChangedOf(changed), nil
}

func (a *api) emitter(namespace string) (*hub.Emitter, error) {
	if namespace == "" {
		namespace = "/"
	}
	if !slices.Contains(a.config.Namespaces, namespace) {
		return nil, badRequest(errors.New("unknown namespace; see the setting namespaces"))
	}
	return a.hub.Emitter().In(namespace), nil
}

// guard serves a request that has a key, fits, and does not come while too many others
// are being served. It writes the answer, too.
func (a *api) guard(q request) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		out, err := a.serve(w, r, q)
		status := http.StatusOK
		if err != nil {
			status = statusOf(err)
			out = map[string]string{"error": messageOf(err)}
		}
		writeJSON(w, status, out)
		a.logRequest(r, status, time.Since(began), err)
	})
}

// logRequest logs at level debug, and failures of ours as warnings, one a second: while a broker is away
// there may be thousands, and each says the same.
func (a *api) logRequest(r *http.Request, status int, took time.Duration, err error) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("path", r.URL.Path), slog.Int("status", status), slog.Float64("ms", float64(took.Microseconds())/1000)}
	if status >= 500 {
		attrs = append(attrs, slog.Any("error", err))
		if alike, ok := a.failures.pass(time.Now()); ok {
			level = slog.LevelWarn
			attrs = append(attrs, slog.Int("alike", alike))
		}
	}
	a.log.LogAttrs(r.Context(), level, "API request", attrs...)
}

func (a *api) serve(w http.ResponseWriter, r *http.Request, q request) (any, error) {
	if !a.hasKey(r, q.key) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tether"`)
		return nil, &requestError{http.StatusUnauthorized, errors.New(keyNeeded(q.key))}
	}
	active, maxBody := a.active, a.config.Emit.MaxBody
	if q.key == needsNoKey {
		active, maxBody = a.unkeyed, maxUnkeyedBody
	}
	select {
	case active <- struct{}{}:
		defer func() { <-active }()
	default:
		w.Header().Set("Retry-After", "1")
		return nil, &requestError{http.StatusServiceUnavailable, errors.New("too many requests at once; see emit.max-active")}
	}
	body, err := a.read(w, r, maxBody)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &requestError{http.StatusRequestTimeout, fmt.Errorf("the body did not arrive within %v", a.config.HTTP.BodyTimeout)}
	} else if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, &requestError{http.StatusRequestEntityTooLarge, fmt.Errorf("the body is larger than %d bytes", maxBody)}
	} else if err != nil {
		return nil, badRequest(errors.New("the body did not arrive"))
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.config.Emit.Timeout)
	defer cancel()
	if q.key != needsEmitKey { // strangers make no spans
		return q.serve(ctx, body)
	}
	ctx, end := a.traces.Request(ctx, r)
	out, err := q.serve(ctx, body)
	end(err, statusOf)
	return out, err
}

// maxUnkeyedBody is the size of a body without a key in bytes: it has a token, see token.MaxLen.
const maxUnkeyedBody = 16 << 10

// read reads the body, within its limits.
func (a *api) read(w http.ResponseWriter, r *http.Request, maxBody int) ([]byte, error) {
	// A connection without deadlines, which none of net/http's is, has none here.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(a.config.HTTP.BodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(maxBody)))
	if err == nil {
		_ = deadline.SetReadDeadline(time.Time{}) // it would end the request's context
	}
	return body, err
}

// hasKey compares hashes, and all of them, so that neither the time it takes nor the length of what
// was sent says anything about a key.
func (a *api) hasKey(r *http.Request, kind keyKind) bool {
	if kind == needsNoKey {
		return true
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	keys := *a.emitKeys.Load()
	if kind == needsStatsKey {
		keys = slices.Concat(keys, *a.statsKeys.Load())
	}
	return isOneOf(keys, strings.TrimSpace(given)) && strings.EqualFold(scheme, "Bearer")
}

// keyNeeded is what a caller is told whose key is not good.
func keyNeeded(kind keyKind) string {
	of := "emit.keys"
	if kind == needsStatsKey {
		of = "stats.keys or emit.keys"
	}
	return "a good bearer key is needed, one of " + of + ": Authorization: Bearer KEY"
}

func isOneOf(keys []keyHash, given string) bool {
	hash := sha256.Sum256([]byte(given))
	found := 0
	for _, k := range keys {
		found |= subtle.ConstantTimeCompare(hash[:], k[:])
	}
	return found == 1
}

// unavailable are the errors after which it is worth trying again. The event may have left all the
// same, so that trying again may deliver it twice.
var unavailable = []error{
	broker.ErrUnavailable, broker.ErrClosed, hub.ErrNotRunning, hub.ErrDraining, context.DeadlineExceeded, context.Canceled,
}

func isUnavailable(err error) bool {
	return slices.ContainsFunc(unavailable, func(u error) bool { return errors.Is(err, u) })
}

func statusOf(err error) int {
	var request *requestError
	switch {
	case errors.As(err, &request):
		return request.status
	case isUnavailable(err), errors.Is(err, broker.ErrRefused):
		return http.StatusServiceUnavailable
	case errors.Is(err, broker.ErrTooLarge):
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest // everything else is about what was to be emitted
}

func messageOf(err error) string {
	switch {
	case isUnavailable(err):
		return "the broker did not take it"
	case errors.Is(err, broker.ErrRefused):
		return "the broker refuses it; the log says why"
	}
	return err.Error()
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// An error here is that the caller has gone.
	_ = json.NewEncoder(w).Encode(v)
}
