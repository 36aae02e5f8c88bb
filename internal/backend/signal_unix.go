//go:build unix

package backend

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// pause returns when the process has stopped, which is not yet so when the signal has been sent.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		c, err := net.DialTimeout("tcp", p.addr, time.Second)
		if err != nil {
			return nil // its backlog is full: it has been stopped for long
		}
		c.SetDeadline(time.Now().Add(50 * time.Millisecond))
		err = p.ready(c)
		c.Close()
		if err != nil {
			return nil
		}
	}
}

func (p *process) resume() error { return p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) error {
	if p.cmd == nil {
		return errors.New("it is stopped")
	}
	return p.cmd.Process.Signal(s)
}
