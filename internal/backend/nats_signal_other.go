//go:build !unix

package backend

import "errors"

func lameDuck(*process) error { return errors.ErrUnsupported }

func reload(*process) error { return errors.ErrUnsupported }
