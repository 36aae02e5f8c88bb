//go:build !race

package sim

import "tether/internal/long"

var defaultSeeds = long.Or(300, 1000)

const raceDetector = false
