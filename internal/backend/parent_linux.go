package backend

import "syscall"

// dieWithParent makes the kernel end the server when the test binary is killed, as it is by a test
// timeout, which runs no cleanup.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
