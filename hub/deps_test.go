package hub

import (
	"testing"

	"tether/internal/deptest"
)

func TestHubKnowsNeitherTransportsNorDrivers(t *testing.T) { deptest.OnHub(t, "tether/hub") }
