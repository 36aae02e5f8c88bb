//go:build !linux

package load

import (
	"context"
	"errors"
	"io"
)

// Work needs epoll.
func Work(context.Context, io.Reader, io.Writer) error {
	return errors.New("load: the load generator needs Linux, because it drives its connections with epoll; " +
		"serve, report and compare work here")
}
