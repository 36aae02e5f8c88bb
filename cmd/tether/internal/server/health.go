package server

import (
	"errors"
	"net/http"

	"tether/hub"
)

var errDraining = errors.New("draining")

// health says whether this node is fit to serve.
type health struct {
	hub      *hub.Hub
	stopping <-chan struct{} // closed before anything else happens in a drain
}

func (h health) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := h.ready(); err != nil {
			writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "not ready", "reason": err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	})
}

// ready is nil while messages make the round trip through the broker and no drain has begun.
func (h health) ready() error {
	select {
	case <-h.stopping:
		return errDraining
	default:
		return h.hub.Ready()
	}
}
