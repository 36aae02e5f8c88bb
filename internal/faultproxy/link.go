package faultproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// link is one connection through the proxy.
type link struct {
	proxy          *Proxy
	client, server net.Conn
	idle           time.Duration // of the client, after which it is cut; 0: it is not

	once sync.Once
	gone chan struct{} // closed by cut
}

// chunk is what one Read returned. Its data are nil at the end of the stream.
type chunk struct {
	data []byte
	at   time.Time
}

// The most that a direction holds back: chunks of at most chunkSize bytes.
const (
	chunks    = 64
	chunkSize = 32 << 10
)

// run returns when both directions have ended.
func (l *link) run() {
	var wg sync.WaitGroup
	for lane, ends := range [2][2]net.Conn{{l.client, l.server}, {l.server, l.client}} {
		queue := make(chan chunk, chunks)
		wg.Go(func() { l.read(ends[0], queue) })
		wg.Go(func() { l.write(ends[1], lane, queue) })
	}
	wg.Wait()
	l.client.Close()
	l.server.Close()
}

// read fills the queue, and closes it at the end of the stream. A reset cuts the link.
func (l *link) read(src net.Conn, queue chan<- chunk) {
	defer close(queue)
	for {
		if l.idle > 0 && src == l.client {
			_ = src.SetReadDeadline(time.Now().Add(l.idle)) // fails only if it is closed, as Read does
		}
		buf := make([]byte, chunkSize)
		n, err := src.Read(buf)
		if n > 0 {
			select {
			case queue <- chunk{data: buf[:n], at: time.Now()}:
			case <-l.gone:
				return
			}
		}
		if errors.Is(err, io.EOF) {
			queue <- chunk{at: time.Now()} // write takes all until the queue is closed
			return
		}
		if err != nil {
			return
		}
	}
}

// write empties the queue into dst, as the faults of the lane have it. It takes everything until the
// queue is closed, so that read never waits for it in vain.
func (l *link) write(dst net.Conn, lane int, queue <-chan chunk) {
	var (
		lost  bool  // bytes were swallowed: nothing that follows makes sense
		epoch int   // the CutAfter that left counts for
		left  int64 // bytes until the cut
		ended bool
	)
	for c := range queue {
		f, ok := l.wait(c, lane)
		lost = lost || f.swallowed
		if !ok || lost {
			continue
		}
		if c.data == nil {
			ended = true
			_ = dst.(*net.TCPConn).CloseWrite() // an error means that dst is gone, which its reader sees
			continue
		}
		if f.epoch != epoch {
			epoch, left = f.epoch, f.budget
		}
		cut := f.limited && int64(len(c.data)) >= left
		if cut {
			c.data = c.data[:left]
		}
		left -= int64(len(c.data))
		if _, err := dst.Write(c.data); err != nil || cut {
			l.cut()
		}
	}
	if !ended && !lost {
		l.cut() // a reset, unless the link was cut already
	}
}

// wait returns when the chunk may be forwarded, with the faults that count for it, or false when the
// link is cut.
func (l *link) wait(c chunk, lane int) (faults, bool) {
	for {
		f, changed := l.proxy.look(lane)
		var due <-chan time.Time
		if d := f.delay - time.Since(c.at); d > 0 {
			timer := time.NewTimer(d)
			defer timer.Stop()
			due = timer.C
		} else if !f.held {
			return f, true
		}
		select {
		case <-l.gone:
			return f, false
		case <-changed:
		case <-due:
		}
	}
}

// cut resets both connections.
func (l *link) cut() {
	l.once.Do(func() {
		close(l.gone)
		reset(l.client)
		reset(l.server)
	})
}

// reset closes c so that the other side sees a reset, not an orderly end.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only if c is closed already
	}
	c.Close()
}
