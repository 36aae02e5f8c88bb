package floor

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
)

func followRedis(ctx context.Context, address string, channels []string, ready func(), deliver func([]byte) error) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	unhook := context.AfterFunc(ctx, func() { c.Close() })
	defer unhook()
	defer c.Close()
	command := fmt.Appendf(nil, "*%d\r\n$9\r\nSUBSCRIBE\r\n", 1+len(channels))
	for _, channel := range channels {
		command = fmt.Appendf(command, "$%d\r\n%s\r\n", len(channel), channel)
	}
	if _, err := c.Write(command); err != nil {
		return fmt.Errorf("floor: subscribe: %w", err)
	}
	r := bufio.NewReaderSize(c, 256<<10)
	for confirmed := 0; ; {
		kind, payload, err := readPush(r)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("floor: subscription: %w", err)
		}
		if kind == "subscribe" {
			if confirmed++; confirmed == len(channels) {
				ready()
			}
			continue
		}
		if err := deliver(payload); err != nil {
			return err
		}
	}
}

var errRESP = errors.New("floor: Redis said something strange")

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

// redisEmitter publishes in pipelines of what is due together.
type redisEmitter struct {
	c        net.Conn
	channels []string // by user

	mu  sync.Mutex
	buf []byte // guarded by mu; what was not sent yet
}

func dialRedis(address string, channels []string) (emit.Sender, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return emit.Sender{}, fmt.Errorf("floor: %w", err)
	}
	e := &redisEmitter{c: c, channels: channels}
	go io.Copy(io.Discard, c) // the counts; ends when the connection does, with the process
	return emit.Sender{One: e.one, Flush: e.flush}, nil
}

func (e *redisEmitter) one(_ context.Context, user uint32, payload []byte) (int, error) {
	channel := e.channels[user]
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buf = fmt.Appendf(e.buf, "*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n", len(channel), channel, len(payload))
	e.buf = append(e.buf, payload...)
	e.buf = append(e.buf, "\r\n"...)
	if len(e.buf) < 64<<10 {
		return -1, nil
	}
	return -1, e.flushLocked()
}

func (e *redisEmitter) flush() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.flushLocked()
}

// flushLocked writes with the lock held: the emitter is one caller, and the lock only makes it safe.
func (e *redisEmitter) flushLocked() error {
	if len(e.buf) == 0 {
		return nil
	}
	_, err := e.c.Write(e.buf)
	e.buf = e.buf[:0]
	return err
}
