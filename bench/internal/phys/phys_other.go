//go:build !linux

// Package phys is the physical limit: a server that is nothing but system calls. It needs Linux.
package phys

import (
	"context"
	"errors"

	"tether/bench/internal/emit"
)

// Server is the physical limit as a server; here there is none.
type Server struct{}

// Listen needs Linux.
func Listen() (*Server, error) { return nil, errors.New("phys: the physical limit needs Linux") }

// URL is empty here.
func (*Server) URL() string { return "" }

// Connections is 0 here.
func (*Server) Connections() int { return 0 }

// Run needs Linux.
func (*Server) Run(context.Context) error { return errors.New("phys: the physical limit needs Linux") }

// Sender is empty here.
func (*Server) Sender() emit.Sender { return emit.Sender{} }

// Deliver needs Linux.
func (*Server) Deliver([]byte) error { return errors.New("phys: the physical limit needs Linux") }
