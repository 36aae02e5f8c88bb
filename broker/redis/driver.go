package redis

import (
	"context"
	"time"

	"tether/broker"
	"tether/broker/internal/dispatch"
)

// driver is a broker on one server, or on the master that Sentinels name.
type driver struct {
	core
	server *server
	in     *interest
}

func newDriver(t target, o Options) *driver {
	o = o.withDefaults()
	tab := newTable(newWire(o.Prefix))
	d := &driver{core: newCore(o, tab), in: newInterest(tab)}
	tab.owner[0] = d.in
	d.server = newServer(d.life, t.opts, o, tab.wire)
	d.server.find = t.find
	d.server.role = t.role
	return d
}

func (d *driver) ping(ctx context.Context) error { return d.server.ping(ctx) }

func (d *driver) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Reach, error) {
	return d.server.lanes.Publish(ctx, msgs...)
}

// Run implements [broker.Broker.Run]. Gap and State are called one at a time.
func (d *driver) Run(ctx context.Context, h broker.Handler) error {
	ctx, end, err := d.begin(ctx, h)
	if err != nil {
		return err
	}
	defer end()
	workers := dispatch.New(h.Deliver)
	close(d.started)
	d.run(ctx, h, workers)
	workers.Close()
	close(d.ended)
	return nil
}

// run keeps a session until ctx is done.
func (d *driver) run(ctx context.Context, h broker.Handler, workers *dispatch.Dispatcher) {
	var (
		state state
		since time.Time // messages may be missing from here on; zero: no session was up yet
		cause error
		old   clientID
		wait  backoff
	)
	for ctx.Err() == nil {
		s, err := d.server.open(ctx, d.in, workers, old)
		if err == nil {
			wasUp, from := false, time.Time{}
			from, err = s.serve(ctx, func() {
				wasUp = true
				wait = backoff{}
				if !since.IsZero() && h.Gap != nil {
					h.Gap(broker.Gap{From: since, To: time.Now(), Cause: cause})
				}
				state.tell(h.State, nil)
			})
			old = s.c.client
			if wasUp {
				since, cause = from, unavailable(err)
			}
		}
		if ctx.Err() != nil {
			return
		}
		d.server.fail()
		state.tell(h.State, unavailable(err))
		wait.sleep(ctx)
	}
}

// Close ends everything and waits for what is publishing; Run ends by itself.
func (d *driver) Close() error {
	if d.close(d.server.lanes.Close) {
		d.server.close()
		d.wait()
	}
	return nil
}
