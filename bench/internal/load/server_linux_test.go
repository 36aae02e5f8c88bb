package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// wire is one connection of a server that a test writes by hand.
type wire struct {
	net.Conn
	r    *bufio.Reader
	head string
}

// handSocketIO serves every connection with f on a goroutine of its own, after the WebSocket handshake,
// and waits for all of them at the end of the test.
func handSocketIO(t *testing.T, f func(*wire)) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				w := &wire{Conn: c, r: bufio.NewReader(c)}
				for !strings.HasSuffix(w.head, "\r\n\r\n") {
					line, err := w.r.ReadString('\n')
					if err != nil {
						return
					}
					w.head += line
				}
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: "+wsAccept+"\r\n\r\n")
				f(w)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return "http://" + ln.Addr().String()
}

// text writes Engine.IO packets, a frame each, in one segment.
func (w *wire) text(packets ...string) {
	var b []byte
	for _, p := range packets {
		b = append(b, serverFrame(0x80|opText, p)...)
	}
	w.Write(b)
}

func serverFrame(first byte, payload string) []byte {
	b := []byte{first, byte(len(payload))}
	if len(payload) > 125 {
		b = binary.BigEndian.AppendUint16([]byte{first, 126}, uint16(len(payload)))
	}
	return append(b, payload...)
}

// next reads a client's frame; op is opClose when the connection has ended.
func (w *wire) next() (op byte, payload string) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(w.r, head); err != nil {
		return opClose, ""
	}
	if head[1]&0x80 == 0 {
		return opClose, "not masked"
	}
	size := int(head[1] & 0x7f)
	if size == 126 {
		long := make([]byte, 2)
		if _, err := io.ReadFull(w.r, long); err != nil {
			return opClose, ""
		}
		size = int(binary.BigEndian.Uint16(long))
	}
	body := make([]byte, 4+size)
	if _, err := io.ReadFull(w.r, body); err != nil {
		return opClose, ""
	}
	for i := range body[4:] {
		body[4+i] ^= body[i&3]
	}
	return head[0] & 15, string(body[4:])
}

// greet makes the handshakes of Engine.IO and Socket.IO, and returns what CONNECT carried.
func (w *wire) greet() (auth string) {
	w.text(`0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
	_, p := w.next()
	w.text(`40{"sid":"t"}`)
	return strings.TrimPrefix(p, "40")
}

// untilGone reads until the client is gone.
func (w *wire) untilGone() {
	for {
		if op, _ := w.next(); op == opClose {
			return
		}
	}
}

// clients runs the loop of o until the end of the test.
func clients(t *testing.T, o Options) *Loop {
	t.Helper()
	o, err := o.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l
}

// grow connects n clients and waits until every handshake has ended.
func grow(t *testing.T, l *Loop, n int) {
	t.Helper()
	settled := make(chan struct{})
	l.Do(func() { l.Grow(n, func() { close(settled) }) })
	<-settled
}

// eventually waits until the result is as ok says, and returns the last one.
func eventually(t *testing.T, l *Loop, what string, ok func(*Result) bool) *Result {
	t.Helper()
	got := make(chan *Result)
	for end := time.Now().Add(time.Minute); ; {
		l.Do(func() { got <- l.result(nil) })
		r := <-got
		if ok(r) {
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("%s: did not happen: %+v, failures %v", what, r.Snapshot, r.Failures)
		}
	}
}
