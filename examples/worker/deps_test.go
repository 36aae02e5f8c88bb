package main

import (
	"testing"

	"tether/internal/deptest"
)

func TestLinksNoTransport(t *testing.T) {
	deptest.Forbid(t, "tether/examples/worker", map[string]string{
		"tether/transport":         "a worker has no connections",
		"github.com/lxzan/gws":     "a worker speaks no WebSocket",
		"net/http/httptest":        "it is a program",
		"tether/broker/brokertest": "it is a program",
	})
}
