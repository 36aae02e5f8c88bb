//go:build race

package tracing_test

const raceDetector = true
