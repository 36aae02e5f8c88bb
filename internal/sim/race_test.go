//go:build race

package sim

// The race detector makes a run about ten times slower.
const defaultSeeds = 200

const raceDetector = true
