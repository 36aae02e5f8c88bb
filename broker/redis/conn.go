package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker/internal/credential"
)

// conn is one connection to Redis. It belongs to one goroutine, but for Close of nc.
type conn struct {
	nc      net.Conn
	addr    string // immutable; as it was dialled
	rd      *reader
	out     []byte        // reused for writing
	timeout time.Duration // of every Read and Write

	client clientID
	server string        // run id of the server, another one after each start; "": it does not say
	uptime time.Duration // of the server
	used   time.Time     // when it was last known to work
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

// owned is a connection that ends with the broker.
type owned struct {
	net.Conn
	stop func() bool
}

func (o owned) Close() error {
	o.stop()
	return o.Conn.Close()
}

// dialer makes connections. It is immutable.
type dialer struct {
	life  *life
	opts  *goredis.Options
	o     Options           // with defaults
	files *credential.Files // of TLS; nil: none
}

// dialTo connects to addr, authenticates, and asks what it is. Only a master will do; of a Cluster, and then
// any of its servers, if sharded is set.
func (d dialer) dialTo(ctx context.Context, addr string, sharded bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.DialTimeout)
	defer cancel()
	defer d.life.onEnd(cancel)()
	nc, err := d.opts.Dialer(ctx, d.opts.Network, addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", advised(err, d.secure()))
	}
	c := &conn{nc: owned{nc, d.life.onEnd(func() { nc.Close() })}, addr: addr, timeout: d.o.DialTimeout}
	c.rd = newReader(timedReader{c})
	// What ends ctx before the greeting is over ends the connection.
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	err = c.greet(ctx, d.opts, sharded)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.nc.Close()
		return nil, advised(err, d.secure())
	}
	c.timeout = d.o.PublishTimeout
	c.used = time.Now()
	return c, nil
}

func (d dialer) secure() bool { return d.opts.TLSConfig != nil }

// greet authenticates, names the connection, and asks what the server is.
func (c *conn) greet(ctx context.Context, o *goredis.Options, sharded bool) error {
	user, password, err := credentials(ctx, o)
	if err != nil {
		return err
	}
	if err := c.authenticate(user, password, "the server", missingPassword); err != nil {
		return err
	}
	questions := [][]string{{"HELLO", "2"}, {"CLIENT", "INFO"}, {"INFO", "server"}}
	if o.ClientName != "" {
		questions = append(questions, []string{"CLIENT", "SETNAME", o.ClientName})
	}
	answers, err := c.pipeline(questions...)
	for _, v := range answers { // a server that is full says so, and hangs up
		if refused, ok := v.(serverError); ok && refused.denial() != nil {
			return fmt.Errorf("greet: %w", refused.denial())
		}
	}
	if err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	if err := c.suits(answers[0], sharded); err != nil {
		return err
	}
	if info, ok := answers[1].(string); ok {
		c.client = parseClientInfo(info)
	}
	if info, ok := answers[2].(string); ok {
		_, rest, _ := strings.Cut(info, "run_id:")
		c.server, _, _ = strings.Cut(rest, "\r\n")
		c.uptime = time.Duration(infoNumber(info, "uptime_in_seconds")) * time.Second
	}
	if refused, ok := answers[len(answers)-1].(serverError); ok && o.ClientName != "" {
		return fmt.Errorf("set name: %w", refused)
	}
	return nil
}

// authenticate sends a user and password, if there are any.
func (c *conn) authenticate(user, password, whose, missing string) error {
	args := []string{"AUTH", user, password}
	switch {
	case user == "" && password == "":
		return nil
	case user == "":
		args = []string{"AUTH", password}
	}
	_, err := c.ask(args...)
	if refused, ok := errors.AsType[serverError](err); ok && !refused.full() {
		return refusedAuth(refused, whose, missing)
	}
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	return nil
}

// denial is the error that ends the greeting. It is nil for a command that is not there, or not for this user:
// what is refused for the moment must not be taken for that.
func (e serverError) denial() error {
	switch {
	case e == "":
		return nil
	case e.code() == "NOAUTH":
		return refusedAuth(e, "the server", missingPassword)
	case e.full():
		return fmt.Errorf("%w: raise its maxclients, or let fewer connect", e)
	case e.code() != "NOPERM" && e.code() != "ERR":
		return e
	}
	return nil
}

// full says that the server has as many connections as it may have. It hangs up then.
func (e serverError) full() bool { return strings.Contains(string(e), "max number of clients") }

// askRole asks a server whether it is a master. No rule of access can deny it.
var askRole = appendCommand(nil, "HELLO", "2")

// suits refuses a server that is not what the URL says, by its answer to HELLO. One that does not say what it is
// is believed.
func (c *conn) suits(hello any, sharded bool) error {
	is := make(map[any]any)
	if fields, ok := hello.([]any); ok {
		for i := 0; i+1 < len(fields); i += 2 {
			if name, ok := fields[i].(string); ok {
				is[name] = fields[i+1]
			}
		}
	}
	switch role, mode := is["role"], is["mode"]; {
	case mode == "sentinel":
		return fmt.Errorf("redis: %s is a Sentinel; the scheme for that is redis+sentinel, with the name of the master as the path", c.addr)
	case mode == "cluster" && !sharded:
		return fmt.Errorf("redis: %s is one of a Cluster; the scheme for that is redis+cluster", c.addr)
	case sharded:
		return nil // what it is, and of what, is asked by CLUSTER SLOTS
	case role != nil && role != "master":
		return fmt.Errorf("redis: %s is a %s: %w", c.addr, role, errReplica)
	}
	return nil
}

var errReplica = errors.New("nodes and emitters must meet at the master; the name must lead there, or redis+sentinel find it")

// credentials are those that go-redis would use, in its order of preference.
func credentials(ctx context.Context, o *goredis.Options) (user, password string, err error) {
	switch {
	case o.CredentialsProviderContext != nil:
		user, password, err = o.CredentialsProviderContext(ctx)
		if secret := (*secretError)(nil); err != nil && !errors.As(err, &secret) {
			err = errors.New("authenticate: the credentials provider failed")
		}
	case o.CredentialsProvider != nil:
		user, password = o.CredentialsProvider()
	default:
		user, password = o.Username, o.Password
	}
	return user, password, err
}

// parseClientInfo takes id, addr and laddr from a line of CLIENT LIST: "id=3 addr=127.0.0.1:52555 …".
func parseClientInfo(info string) clientID {
	c := clientID{clientField(info, "id"), clientField(info, "addr"), clientField(info, "laddr")}
	if c.id == "" || c.addr == "" {
		return clientID{}
	}
	return c
}

func clientField(info, name string) string {
	for field := range strings.FieldsSeq(info) {
		if value, ok := strings.CutPrefix(field, name+"="); ok {
			return value
		}
	}
	return ""
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
	replies, err := c.pipeline(args)
	if err != nil {
		return nil, err
	}
	return replies[0], nil
}

// pipeline sends commands together and returns their replies, each of which may be a serverError. With an error
// it returns those that have come.
func (c *conn) pipeline(commands ...[]string) ([]any, error) {
	c.out = c.out[:0]
	for _, args := range commands {
		c.out = appendCommand(c.out, args...)
	}
	if err := c.flush(); err != nil {
		return nil, err
	}
	replies := make([]any, len(commands))
	for i := range replies {
		var err error
		if replies[i], err = c.rd.reply(); err != nil {
			return replies[:i], err
		}
	}
	c.used = time.Now()
	return replies, nil
}

// ask sends one command, and returns an error if the server refuses it.
func (c *conn) ask(args ...string) (any, error) {
	v, err := c.do(args...)
	if refused, ok := v.(serverError); ok {
		return nil, refused
	}
	return v, err
}

// kill makes the server drop another connection, so that nothing of what it still holds of that one
// is executed or counted. It reports whether there was one. Servers that cannot are left to notice by themselves.
func (c *conn) kill(other clientID, filter ...string) (killed bool, err error) {
	if other.id == "" {
		return false, nil
	}
	args := []string{"CLIENT", "KILL", "ID", other.id, "ADDR", other.addr}
	if other.laddr != "" {
		args = append(args, "LADDR", other.laddr) // no other server's connection of this name
	}
	v, err := c.ask(append(args, filter...)...)
	return v == int64(1), err
}

// tlsDialer is like that of go-redis, but a context ends it also during the TLS handshake, and the
// configuration is asked for anew for each connection.
func tlsDialer(config func() (*tls.Config, error)) func(context.Context, string, string) (net.Conn, error) {
	plain := &net.Dialer{KeepAlive: 15 * time.Second}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := config()
		switch {
		case err != nil:
			return nil, err
		case c == nil:
			return plain.DialContext(ctx, network, addr)
		}
		return (&tls.Dialer{NetDialer: plain, Config: c}).DialContext(ctx, network, addr)
	}
}
