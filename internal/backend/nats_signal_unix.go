//go:build unix

package backend

import "syscall"

func lameDuck(p *process) error { return p.signal(syscall.SIGUSR2) }

func reload(p *process) error { return p.signal(syscall.SIGHUP) }
