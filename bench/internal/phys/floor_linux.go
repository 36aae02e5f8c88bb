package phys

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"tether/bench/internal/emit"
	"tether/bench/internal/mark"
)

// The floor of a cluster is the physical limit behind a bare Redis: PUBLISH to the channel of the
// node that has the user, one subscription a node, and one write to the user's socket.

const floorChannel = "bench-floor-"

// Follow subscribes s to the channel of node number id at the Redis on address, and writes what
// comes to the sockets until ctx is done. ready is called when the subscription is live.
func (s *Server) Follow(ctx context.Context, address string, id int, ready func()) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return fmt.Errorf("phys: %w", err)
	}
	unhook := context.AfterFunc(ctx, func() { c.Close() })
	defer unhook()
	defer c.Close()
	if _, err := fmt.Fprintf(c, "SUBSCRIBE %s%d\r\n", floorChannel, id); err != nil {
		return fmt.Errorf("phys: subscribe: %w", err)
	}
	r := bufio.NewReaderSize(c, 256<<10)
	for {
		kind, payload, err := readPush(r)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("phys: subscription: %w", err)
		}
		if kind == "subscribe" {
			ready()
			continue
		}
		if m, ok := mark.Parse(payload); ok {
			if _, err := s.one(ctx, m.User, payload); err != nil {
				return err
			}
		}
	}
}

var errRESP = errors.New("phys: Redis said something strange")

// readPush reads an array of three bulk strings; the last one may be an integer.
func readPush(r *bufio.Reader) (kind string, payload []byte, err error) {
	if n, err := readSize(r, '*'); err != nil || n != 3 {
		return "", nil, errors.Join(errRESP, err)
	}
	for i := range 3 {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", nil, err
		}
		if line[0] == ':' {
			continue
		}
		n, err := strconv.Atoi(string(line[1 : len(line)-2]))
		if err != nil || line[0] != '$' || n < 0 || n > 1<<20 {
			return "", nil, errRESP
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return "", nil, err
		}
		switch i {
		case 0:
			kind = string(b[:n])
		case 2:
			payload = b[:n]
		}
	}
	return kind, payload, nil
}

func readSize(r *bufio.Reader, kind byte) (int, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 4 || line[0] != kind {
		return 0, errRESP
	}
	return strconv.Atoi(string(line[1 : len(line)-2]))
}

// FloorEmitter publishes for nodes that follow.
type FloorEmitter struct {
	c            net.Conn
	users, nodes uint32

	mu  sync.Mutex
	buf []byte // guarded by mu; what was not sent yet
}

// DialFloor connects to the Redis on address. Users are divided over the nodes in order.
func DialFloor(address string, users, nodes int) (*FloorEmitter, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("phys: %w", err)
	}
	f := &FloorEmitter{c: c, users: uint32(users), nodes: uint32(nodes)}
	go io.Copy(io.Discard, c) // the counts; ends when the connection does, with the process
	return f, nil
}

// Sender publishes in pipelines of what is due together.
func (f *FloorEmitter) Sender() emit.Sender { return emit.Sender{One: f.one, Flush: f.flush} }

func (f *FloorEmitter) one(_ context.Context, user uint32, payload []byte) (int, error) {
	node := strconv.Itoa(int((uint64(user)*uint64(f.nodes) + uint64(f.nodes) - 1) / uint64(f.users)))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = fmt.Appendf(f.buf, "*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s%s\r\n$%d\r\n", len(floorChannel)+len(node), floorChannel, node, len(payload))
	f.buf = append(f.buf, payload...)
	f.buf = append(f.buf, "\r\n"...)
	if len(f.buf) < 64<<10 {
		return -1, nil
	}
	return -1, f.flushLocked()
}

func (f *FloorEmitter) flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flushLocked()
}

// flushLocked writes with the lock held: the emitter is one caller, and the lock only makes it safe.
func (f *FloorEmitter) flushLocked() error {
	if len(f.buf) == 0 {
		return nil
	}
	_, err := f.c.Write(f.buf)
	f.buf = f.buf[:0]
	return err
}
