package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// conn is one connection to Redis. It belongs to one goroutine, but for Close of nc.
type conn struct {
	nc      net.Conn
	addr    string // immutable; as it was dialled
	rd      *reader
	out     []byte        // reused for writing
	timeout time.Duration // of every Read and Write

	client clientID
	used   time.Time // when it was last known to work
}

// clientID names a connection as the server knows it. Empty: the server does not say.
type clientID struct{ id, addr, laddr string }

// timedReader gives every Read the same time.
type timedReader struct{ c *conn }

func (t timedReader) Read(p []byte) (int, error) {
	if err := t.c.nc.SetReadDeadline(time.Now().Add(t.c.timeout)); err != nil {
		return 0, err
	}
	return t.c.nc.Read(p)
}

// registered is a connection that the driver closes with itself.
type registered struct {
	net.Conn
	undo func()
}

func (r registered) Close() error {
	r.undo()
	return r.Conn.Close()
}

// greet authenticates and names the connection, and, if master is set, refuses a replica.
func (c *conn) greet(ctx context.Context, o *goredis.Options, master bool) error {
	user, password, err := credentials(ctx, o)
	if err != nil {
		return err
	}
	c.out = c.out[:0]
	switch {
	case user != "":
		c.out = appendCommand(c.out, "AUTH", user, password)
	case password != "":
		c.out = appendCommand(c.out, "AUTH", password)
	}
	auth := len(c.out) > 0
	if o.ClientName != "" {
		c.out = appendCommand(c.out, "CLIENT", "SETNAME", o.ClientName)
	}
	c.out = appendCommand(c.out, "CLIENT", "INFO")
	if master {
		c.out = appendCommand(c.out, "ROLE")
	}
	if err := c.flush(); err != nil {
		return err
	}
	if auth {
		if err := c.authenticated(); err != nil {
			return err
		}
	}
	if o.ClientName != "" {
		if v, err := c.rd.reply(); err != nil {
			return fmt.Errorf("set name: %w", err)
		} else if err := expectOK(v); err != nil {
			return fmt.Errorf("set name: %w", err)
		}
	}
	if err := c.introduced(); err != nil || !master {
		return err
	}
	return c.isMaster()
}

// authenticated reads the answer to AUTH.
func (c *conn) authenticated() error {
	v, err := c.rd.reply()
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	if err := expectOK(v); err != nil {
		if se, ok := v.(serverError); ok {
			return refusedAuth(se, "the server", missingPassword)
		}
		return fmt.Errorf("authenticate: %w", err)
	}
	return nil
}

// isMaster reads the answer to ROLE. A server that does not say is believed.
func (c *conn) isMaster() error {
	v, err := c.rd.reply()
	if err != nil {
		return fmt.Errorf("ask for the role: %w", err)
	}
	if list, ok := v.([]any); ok && len(list) > 0 && list[0] != "master" {
		return fmt.Errorf("redis: %s is a %v", c.addr, list[0])
	}
	return nil
}

// introduced reads the answer to CLIENT INFO.
func (c *conn) introduced() error {
	v, err := c.rd.reply()
	if err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	switch v := v.(type) {
	case string:
		c.client = parseClientInfo(v)
	case serverError:
		switch v.code() {
		case "ERR", "NOPERM": // this server cannot say, or not to this user
		case "NOAUTH":
			return refusedAuth(v, "the server", missingPassword)
		default:
			return fmt.Errorf("greet: %w", v)
		}
	}
	return nil
}

// credentials are those that go-redis would use, in its order of preference.
func credentials(ctx context.Context, o *goredis.Options) (user, password string, err error) {
	switch {
	case o.CredentialsProviderContext != nil:
		user, password, err = o.CredentialsProviderContext(ctx)
		if err != nil {
			err = errors.New("authenticate: the credentials provider failed")
		}
	case o.CredentialsProvider != nil:
		user, password = o.CredentialsProvider()
	default:
		user, password = o.Username, o.Password
	}
	return user, password, err
}

// parseClientInfo takes id, addr and laddr from the reply to CLIENT INFO: "id=3 addr=127.0.0.1:52555 …".
func parseClientInfo(info string) clientID {
	var c clientID
	for field := range strings.FieldsSeq(info) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "id":
			c.id = value
		case "addr":
			c.addr = value
		case "laddr":
			c.laddr = value
		}
	}
	if c.id == "" || c.addr == "" {
		return clientID{}
	}
	return c
}

// flush writes c.out.
func (c *conn) flush() error {
	err := c.write(c.out, nil)
	if cap(c.out) > 4*bufferSize {
		c.out = nil
	}
	c.out = c.out[:0]
	return err
}

// write writes p in pieces, each in its own time, and calls wrote, if that is not nil, between them.
func (c *conn) write(p []byte, wrote func()) error {
	for first := true; len(p) > 0; first = false {
		if !first && wrote != nil {
			wrote()
		}
		piece := p[:min(len(p), 4*bufferSize)]
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return err
		}
		if _, err := c.nc.Write(piece); err != nil {
			return err
		}
		p = p[len(piece):]
	}
	return nil
}

// do sends one command and returns its reply, which may be a serverError.
func (c *conn) do(args ...string) (any, error) {
	c.out = appendCommand(c.out[:0], args...)
	if err := c.flush(); err != nil {
		return nil, err
	}
	v, err := c.rd.reply()
	if err == nil {
		c.used = time.Now()
	}
	return v, err
}

// kill makes the server drop another connection, so that nothing of what it still holds of that one
// is executed or counted. Servers that cannot are left to notice by themselves.
func (c *conn) kill(other clientID, filter ...string) (any, error) {
	if other.id == "" {
		return nil, nil
	}
	args := []string{"CLIENT", "KILL", "ID", other.id, "ADDR", other.addr}
	if other.laddr != "" {
		args = append(args, "LADDR", other.laddr) // no other server's connection of this name
	}
	return c.do(append(args, filter...)...)
}
