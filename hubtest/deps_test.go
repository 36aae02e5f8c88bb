package hubtest_test

import (
	"testing"

	"tether/internal/deptest"
)

func TestHubtestKnowsNoTransportAndNoDriver(t *testing.T) {
	deptest.Only(t, "tether/hubtest", "tether/hub", "tether/engine", "tether/broker", "tether/cluster", "tether/internal")
	deptest.Forbid(t, "tether/hubtest", map[string]string{
		"tether/transport":     "clients need no sockets",
		"tether/broker/redis":  "tests need no backend",
		"tether/broker/nats":   "tests need no backend",
		"tether/broker/memory": "its nodes cannot fail",
	})
}
