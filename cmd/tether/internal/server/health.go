package server

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/revoke"
	"tether/transport"
)

// health says whether this node is fit to serve, and what is wrong with it.
type health struct {
	hub      *hub.Hub
	list     *revoke.List
	sockets  *transport.Handler
	stopping <-chan struct{} // closed before anything else happens in a drain
	started  time.Time
	maxConns int // 0: no limit
	maxQueue int // bytes
}

// condition is what both requests answer. Reason is set exactly when the node should get no new connections.
type condition struct {
	Status        string   `json:"status"`
	Node          string   `json:"node"`
	UptimeSeconds int64    `json:"uptimeSeconds"`
	Reason        string   `json:"reason,omitempty"`
	Warnings      []string `json:"warnings,omitempty"` // that do not keep clients from coming
}

func (h health) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, h.condition("alive"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		c, status := h.condition("ready"), http.StatusOK
		if c.Reason != "" {
			c.Status, status = "not ready", http.StatusServiceUnavailable
		}
		writeJSON(w, status, c)
	})
}

func (h health) condition(status string) condition {
	return condition{
		Status: status, Node: h.hub.Node(), UptimeSeconds: int64(time.Since(h.started) / time.Second),
		Reason: h.reason(), Warnings: h.warnings(),
	}
}

// reason says in words why this node should get no new connections; "" if it should.
func (h health) reason() string {
	select {
	case <-h.stopping:
		return "draining: this node has been told to stop; its clients are sent to other nodes"
	default:
	}
	switch err := h.hub.Ready(); {
	case err == nil && h.list.Ready() != nil:
		return "starting: this node does not know yet what has been revoked"
	case err == nil:
		return ""
	case errors.Is(err, hub.ErrDraining):
		return "draining: this node sends its clients to other nodes"
	case errors.Is(err, hub.ErrNotRunning):
		return "starting: the broker has not answered yet"
	case errors.Is(err, broker.ErrUnavailable):
		return fmt.Sprintf("the broker does not answer: clients stay connected and get no events from other nodes, and emits fail, until it does; see that it runs and can be reached from here (%v)", err)
	default:
		return fmt.Sprintf("the broker does not do what is needed of it: %v", err)
	}
}

// nearly is how much of a limit is worth a warning.
const nearly = 0.9

func (h health) warnings() (all []string) {
	warn := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if _, err := h.hub.Members(); err != nil && h.hub.Ready() == nil {
		warn("the list of nodes may be wrong: %v", err)
	}
	s := h.sockets.Stats()
	if h.maxConns > 0 && float64(s.Sessions) >= nearly*float64(h.maxConns) {
		warn("%d of %d connections are in use: more clients get 503; add a node, or raise client.max-connections", s.Sessions, h.maxConns)
	}
	if float64(s.Queued) >= nearly*float64(h.maxQueue) {
		warn("%d of %d bytes wait for clients: those with the longest queues are about to be disconnected; %d clients read too slowly", s.Queued, h.maxQueue, s.Behind)
	}
	return all
}
