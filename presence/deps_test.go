package presence

import (
	"testing"

	"tether/internal/deptest"
)

func TestPresenceKnowsNeitherTransportsNorDrivers(t *testing.T) { deptest.OnHub(t, "tether/presence") }
