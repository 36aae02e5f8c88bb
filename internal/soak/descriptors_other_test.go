//go:build !linux

package soak

func openDescriptors() int { return 0 }
