package transport

import (
	"testing"

	"tether/internal/deptest"
)

func TestTheTransportKnowsNeitherHubNorBroker(t *testing.T) {
	deptest.Forbid(t, "tether/transport", map[string]string{
		"tether/hub":    "a hub is attached to the transport, through the engine",
		"tether/broker": "what reaches other nodes is the hub's business",
	})
	deptest.Only(t, "tether/transport", "tether/engine", "tether/internal/socketio", "tether/internal/group", "tether/internal/budget", "tether/internal/probe", "golang.org/x")
}
