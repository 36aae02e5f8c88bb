package conformance

import (
	"testing"

	"tether/internal/deptest"
)

func TestDependsOnHubAndTokenOnly(t *testing.T) {
	deptest.Only(t, "tether/internal/conformance", "tether/hub", "tether/engine", "tether/cluster", "tether/broker", "tether/token", "tether/internal/socketio", "tether/internal/group", "tether/internal/budget")
}
