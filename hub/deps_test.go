package hub

import (
	"testing"

	"tether/internal/deptest"
)

func TestHubKnowsNeitherTransportsNorDrivers(t *testing.T) {
	deptest.Only(t, "tether/hub", "tether/engine", "tether/cluster", "tether/broker", "tether/internal/socketio", "tether/internal/group", "tether/internal/budget")
	deptest.Forbid(t, "tether/hub", map[string]string{
		"tether/transport":     "transports import the hub",
		"tether/broker/redis":  "the program chooses the driver",
		"tether/broker/nats":   "the program chooses the driver",
		"tether/broker/memory": "the program chooses the driver",
	})
}
