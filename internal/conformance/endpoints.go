package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"tether/broker"
	"tether/hub"
	"tether/revoke"
)

const (
	// emitTimeout is more than any driver takes: they give up by themselves after 1.5 s, and on NATS it
	// takes 3.5 s to be certain that a node that is frozen has not taken an event.
	emitTimeout = 5 * time.Second
	maxEmitBody = 1 << 20 // bytes
)

// Endpoints serves GET /healthz, GET /readyz, GET /stats, POST /emit and POST /online for h, and POST /revoke if there
// is a list.
func Endpoints(h *hub.Hub, list *revoke.List) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		err := h.Ready()
		if err == nil && list != nil {
			err = list.Ready()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ready\n")
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		members, _ := h.Members() // what is known last, if it is not certain
		names := make([]string, len(members))
		for i, m := range members {
			names[i] = m.Name
		}
		answer(w, http.StatusOK, map[string]any{
			"connections": h.Stats().Connections, "parked": h.Stats().Parked, "members": names,
		})
	})
	post := func(path string, serve func(ctx context.Context, body io.Reader) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			out, err := serve(r.Context(), http.MaxBytesReader(w, r.Body, maxEmitBody))
			if err != nil {
				answer(w, status(err), map[string]string{"error": err.Error()})
				return
			}
			answer(w, http.StatusOK, out)
		})
	}
	post("/emit", func(ctx context.Context, body io.Reader) (any, error) {
		nodes, err := emit(ctx, h.Emitter(), body)
		return map[string]*int{"nodes": nodes}, err
	})
	post("/online", func(ctx context.Context, body io.Reader) (any, error) { return online(ctx, h.Emitter(), body) })
	if list != nil {
		post("/revoke", func(ctx context.Context, body io.Reader) (any, error) { return putOut(ctx, list, body) })
	}
	return mux
}

// badRequest is what is wrong with a request.
type badRequest struct{ error }

func (b badRequest) Unwrap() error { return b.error }

func status(err error) int {
	for _, target := range []error{
		hub.ErrEvent, hub.ErrNamespace, hub.ErrTooMany, broker.ErrTooLarge,
	} {
		if errors.Is(err, target) {
			return http.StatusBadRequest
		}
	}
	switch {
	case errors.As(err, new(badRequest)):
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable // the broker did not take it
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// emit reads a request and does what it says. It returns the number of nodes that took the event,
// nil where the broker cannot tell.
func emit(ctx context.Context, e *hub.Emitter, body io.Reader) (*int, error) {
	var req struct {
		User      *string           `json:"user"`
		Room      *string           `json:"room"`
		Namespace string            `json:"namespace"`
		Event     string            `json:"event"`
		Args      []json.RawMessage `json:"args"`
	}
	if err := decode(body, &req); err != nil {
		return nil, badRequest{err}
	}
	var to []hub.Target
	switch {
	case req.User != nil && req.Room == nil && *req.User != "":
		to = []hub.Target{hub.User(*req.User)}
	case req.Room != nil && req.User == nil && *req.Room != "":
		to = targets(*req.Room)
	default:
		return nil, badRequest{errors.New("one of user and room is needed, and not empty")}
	}
	if req.Event == "" {
		return nil, badRequest{errors.New("event is needed")}
	}
	if req.Namespace != "" {
		e = e.In(req.Namespace)
	}
	args := make([]any, len(req.Args))
	for i, raw := range req.Args {
		args[i] = raw
	}

	ctx, cancel := context.WithTimeout(ctx, emitTimeout)
	defer cancel()
	receipt, err := e.EmitUnion(ctx, to, req.Event, args...)
	if err != nil {
		return nil, err
	}
	if receipt.Bound == broker.Unknown {
		return nil, nil
	}
	return &receipt.Nodes, nil
}

// decode reads a body that is one JSON object, and says what is wrong with it in the words of the client that
// wrote it.
func decode(body io.Reader, v any) error {
	text, err := io.ReadAll(body)
	if errors.As(err, new(*http.MaxBytesError)) {
		return fmt.Errorf("the body is larger than %d bytes", maxEmitBody)
	}
	if err != nil {
		return errors.New("the body did not arrive")
	}
	switch {
	case len(text) == 0:
		return errors.New("the body is empty; it has to be a JSON object")
	case !utf8.Valid(text):
		return errors.New("the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var wrong *json.UnmarshalTypeError
		switch {
		case errors.As(err, &wrong) && wrong.Field != "":
			return fmt.Errorf("%s cannot be a JSON %s", wrong.Field, wrong.Value)
		case errors.As(err, &wrong):
			return fmt.Errorf("the body is a JSON %s; it has to be an object", wrong.Value)
		case errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("the JSON of the body is cut off")
		}
		return fmt.Errorf("the body cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the body has more than one JSON value")
	}
	return nil
}
