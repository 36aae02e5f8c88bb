package conformance

import (
	"testing"

	"tether/internal/deptest"
)

func TestDependsOnHubAndBelowOnly(t *testing.T) {
	deptest.OnHub(t, "tether/internal/conformance", "tether/presence", "tether/revoke", "tether/token")
}
