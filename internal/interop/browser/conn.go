package browser

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"sync"
)

// conn is the DevTools protocol over a pair of pipes: JSON messages that end in a zero byte.
type conn struct {
	in    *os.File
	out   *os.File
	event func(session, method string, params json.RawMessage)
	done  chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	lastID  int                   // guarded by mu
	pending map[int]chan<- answer // guarded by mu

	queue chan []byte // to the writer
	stop  chan struct{}
	wg    sync.WaitGroup
}

type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    any             `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

func newConn(in, out *os.File, event func(session, method string, params json.RawMessage)) *conn {
	c := &conn{
		in: in, out: out, event: event,
		done:    make(chan struct{}),
		pending: map[int]chan<- answer{},
		queue:   make(chan []byte, 1024),
		stop:    make(chan struct{}),
	}
	c.wg.Go(c.read)  // close waits
	c.wg.Go(c.write) // close waits
	return c
}

// close ends the connection of a browser that has ended.
func (c *conn) close() {
	close(c.stop)
	c.in.Close()
	c.out.Close()
	c.wg.Wait()
}

// send queues a command. Its answer goes to reply, which has room for it; nil: nobody cares. When the
// queue is full the command is dropped, and the caller that waits for the answer will say so.
func (c *conn) send(session, method string, params any, reply chan<- answer) {
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	if reply != nil {
		c.pending[id] = reply
	}
	c.mu.Unlock()
	data, err := json.Marshal(message{ID: id, SessionID: session, Method: method, Params: params})
	if err != nil {
		c.answer(id, answer{err: err})
		return
	}
	select {
	case c.queue <- append(data, 0):
	default:
		c.answer(id, answer{err: errors.New("the queue to the browser is full")})
	}
}

func (c *conn) answer(id int, a answer) {
	c.mu.Lock()
	reply := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if reply != nil {
		reply <- a
	}
}

func (c *conn) write() {
	for {
		select {
		case data := <-c.queue:
			if _, err := c.out.Write(data); err != nil {
				return
			}
		case <-c.stop:
			return
		}
	}
}

func (c *conn) read() {
	defer close(c.done)
	r := bufio.NewReader(c.in)
	for {
		data, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var params json.RawMessage
		m := message{Params: &params}
		if json.Unmarshal(data[:len(data)-1], &m) != nil {
			continue
		}
		switch {
		case m.ID == 0:
			c.event(m.SessionID, m.Method, params)
		case m.Error != nil:
			c.answer(m.ID, answer{err: errors.New(m.Error.Message)})
		default:
			c.answer(m.ID, answer{result: m.Result})
		}
	}
}
