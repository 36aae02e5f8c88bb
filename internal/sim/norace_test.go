//go:build !race

package sim

import "tether/internal/long"

func defaultSeeds() int { return long.Or(50, 1000) }

func recoveringSeeds() int { return long.Or(30, 1000) }

const raceDetector = false
