//go:build !linux

package clock

import "time"

func system() int64 { return started.UnixNano() }

func sleepUntil(t int64) { time.Sleep(time.Duration(t - Now())) }

// Sharpen does nothing here.
func Sharpen() {}
