//go:build !linux

// Package rawsys is empty except on Linux.
package rawsys
