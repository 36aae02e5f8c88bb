//go:build race

package sim

import "tether/internal/long"

// The race detector makes a run about ten times slower.
func defaultSeeds() int { return long.Or(60, 200) }

const raceDetector = true
