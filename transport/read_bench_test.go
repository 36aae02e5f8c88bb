package transport

import (
	"bytes"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"tether/engine"
)

// counter is a receiver that counts, and tells when it has got what was wanted.
type counter struct {
	deaf
	left atomic.Int64
	done chan struct{}
}

func (c *counter) Text([]byte) error {
	if c.left.Add(-1) == 0 {
		c.done <- struct{}{}
	}
	return nil
}

// BenchmarkRead is what a message of a client costs, one at a time and a thousand in a row.
func BenchmarkRead(b *testing.B) {
	for _, carrier := range []string{"portable", "epoll"} {
		for _, row := range []int{1, 1000} {
			b.Run(carrier+map[int]string{1: " one", 1000: " row"}[row], func(b *testing.B) {
				c := &counter{done: make(chan struct{}, 1)}
				s := serveWith(b, func(engine.Conn, *http.Request) (engine.Receiver, error) { return c, nil },
					Options{PingInterval: time.Hour, Epoll: carrier == "epoll"})
				client := s.websocket()
				rows := bytes.Repeat(textFrame("4"+string(make([]byte, 100))), row)
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += row {
					c.left.Store(int64(row))
					client.write(rows)
					<-c.done
				}
			})
		}
	}
}
