package metrics

import (
	"testing"

	"tether/internal/deptest"
)

func TestMetricsKnowNoDrivers(t *testing.T) {
	deptest.Forbid(t, "tether/metrics", map[string]string{
		"tether/event": "metrics read figures, and no events",
	})
	deptest.NoDriver(t, "tether/metrics")
}

func TestTheHubAndTheTransportKnowNoMetrics(t *testing.T) {
	for _, pkg := range []string{"tether/hub", "tether/transport", "tether/cluster", "tether/engine"} {
		deptest.Forbid(t, pkg, map[string]string{
			"github.com/prometheus": "who wants no metrics does not link them",
			"tether/metrics":        "it imports these",
		})
	}
}
