//go:build race

package sim

import "tether/internal/long"

// The race detector makes a run about ten times slower.
func defaultSeeds() int { return long.Or(60, 200) }

func recoveringSeeds() int { return long.Or(10, 100) }

const raceDetector = true
