package hubtest_test

import (
	"testing"

	"tether/internal/deptest"
)

func TestHubtestKnowsNoTransportAndNoDriver(t *testing.T) {
	deptest.Only(t, "tether/hubtest", "tether/hub", "tether/engine", "tether/broker", "tether/internal/socketio",
		"tether/internal/group", "tether/internal/budget", "tether/internal/simbroker", "tether/cluster")
	deptest.Forbid(t, "tether/hubtest", map[string]string{
		"tether/broker/redis":  "tests need no backend",
		"tether/broker/nats":   "tests need no backend",
		"tether/broker/memory": "its nodes cannot fail",
	})
}
