//go:build unix

package backend

import (
	"errors"
	"syscall"
)

func (p *process) pause() error  { return p.signal(syscall.SIGSTOP) }
func (p *process) resume() error { return p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) error {
	if p.cmd == nil {
		return errors.New("it is stopped")
	}
	return p.cmd.Process.Signal(s)
}
