package redis

import (
	"sync"
	"time"
)

// idle are connections that nobody uses. They end with the broker's life.
type idle struct {
	mu   sync.Mutex
	list []idleConn // guarded by mu
}

type idleConn struct {
	at *server
	c  *conn
}

// take returns one to a server, nil if there is none. Those to others, and those that may have failed, are closed.
func (p *idle) take(at *server) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.list) > 0 {
		last := p.list[len(p.list)-1]
		p.list = p.list[:len(p.list)-1]
		if last.at == at && time.Since(last.c.used) < idleTime {
			return last.c
		}
		last.c.nc.Close()
	}
	return nil
}

func (p *idle) put(at *server, c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, idleConn{at, c})
}
