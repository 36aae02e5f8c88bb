package redis

import (
	"context"
	"time"
)

// fixed is the topology of a server behind a name, which may come to lead to another one: that of an address,
// of a balancer, or of a dialer. Connections stay where they are then, and both servers may be masters; so
// the name is tried again and again, and the server that answers there tells its run id.
type fixed struct{ *single }

const (
	fixedEvery    = 2 * time.Second
	fixedTogether = 5 * time.Second
)

func newFixed(d dialer, subs *subscriptions) topology {
	f := fixed{newSingle(d, fixedEvery, fixedTogether)}
	f.where = f
	f.serve(newServer(f, d, subs, d.opts.Addr), subs)
	return f
}

func (f fixed) dial(ctx context.Context, _ *server) (*conn, error) {
	begin := time.Now()
	c, err := f.dialTo(ctx, f.opts.Addr, false)
	if err == nil && c.server != "" {
		f.saw(c.server, begin, c.uptime)
	}
	return c, err
}

// look is but a dial. Where no server tells its run id there is nothing to be seen.
func (f fixed) look(ctx context.Context) (instance string, sure bool, err error) {
	if f.at.Load() == nil {
		return "", false, nil
	}
	c, err := f.dial(ctx, nil)
	if err == nil {
		c.nc.Close()
	}
	return "", false, err
}

func (f fixed) instance(c *conn) string { return c.server }
