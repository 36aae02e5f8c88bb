//go:build !race

package sim

import "tether/internal/long"

func defaultSeeds() int { return long.Or(100, 1000) }

func recoveringSeeds() int { return long.Or(60, 1000) }

const raceDetector = false
