//go:build !linux

package backend

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
