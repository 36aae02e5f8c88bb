//go:build unix

package transport

import "syscall"

// tryWrite writes as much of b as the connection takes at once.
func tryWrite(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := send(fd, b[n:])
		switch err {
		case nil:
			n += m
		case syscall.EINTR:
		case syscall.EAGAIN:
			return n, nil
		default:
			return n, err
		}
	}
	return n, nil
}

// tryRead reads what has come. At the end it returns 0 and no error.
func tryRead(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }

// wouldBlock reports whether tryRead is to be called again when the connection is readable.
func wouldBlock(err error) bool { return err == syscall.EAGAIN }

func interrupted(err error) bool { return err == syscall.EINTR }

const canTry = true
