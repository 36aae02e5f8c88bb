package hubtest_test

import (
	"testing"

	"tether/internal/deptest"
)

func TestHubtestKnowsNoTransportAndNoDriver(t *testing.T) {
	deptest.OnHub(t, "tether/hubtest", "tether/presence", "tether/internal/simbroker")
}
