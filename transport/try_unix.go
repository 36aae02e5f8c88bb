//go:build unix

package transport

import (
	"sync"
	"syscall"
)

// attempt is one write that does not wait. It is pooled, because the function that does it is a value
// that would otherwise be allocated for each.
type attempt struct {
	b   []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

var attempts = sync.Pool{New: func() any {
	a := new(attempt)
	a.fn = a.write
	return a
}}

func (a *attempt) write(fd uintptr) bool {
	for a.n < len(a.b) {
		n, err := send(int(fd), a.b[a.n:])
		switch err {
		case nil:
			if a.n += n; n == 0 {
				return true
			}
		case syscall.EINTR:
		case syscall.EAGAIN:
			return true
		default:
			a.err = err
			return true
		}
	}
	return true
}

// tryWrite writes as much of b as the connection takes at once.
func tryWrite(c syscall.RawConn, b []byte) (int, error) {
	a := attempts.Get().(*attempt)
	a.b, a.n, a.err = b, 0, nil
	err := c.Write(a.fn)
	if err == nil {
		err = a.err
	}
	n := a.n
	a.b = nil
	attempts.Put(a)
	return n, err
}

// tryRead reads what has come. At the end it returns 0 and no error.
func tryRead(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }

// wouldBlock reports whether tryRead is to be called again when the connection is readable.
func wouldBlock(err error) bool { return err == syscall.EAGAIN }

func interrupted(err error) bool { return err == syscall.EINTR }

const canTry = true
