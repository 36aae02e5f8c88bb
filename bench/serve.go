package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"tether/bench/internal/control"
	"tether/bench/internal/floor"
	"tether/bench/internal/phys"
	"tether/bench/internal/proc"
)

const serveText = `
bench serve runs one server until Ctrl-C, and prints a line of JSON with its address and that of its
control port when it is ready. The control port answers

  GET  /stats     connections, registered users, messages from the broker
  POST /gc        collects garbage and says how the memory is divided
  POST /emit      emits numbered messages by a schedule: {"run":1,"publisher":1,"users":1000,
                  "rate":2000,"size":256,"time":5000000000}, times in nanoseconds
  POST /received  tells a flat-out job how many messages have arrived: {"n":12345}

Clients say who they are with {"user":"u7"} in CONNECT and are registered as that.`

// serveOptions are the flags of serve.
type serveOptions struct {
	server  string
	address string
	broker  string
	node    int
	nodes   int
	users   int
}

// target is a server under test.
type target struct {
	url     string // of the Socket.IO server, empty when there is none
	control control.Server
	run     []func(context.Context) error // each until its context is done
	ready   <-chan struct{}               // closed when the server is ready; nil: it is
	close   func()                        // after everything in run has returned; nil: nothing to close
}

// servers are the kinds that serve can be.
var servers = map[string]func(context.Context, serveOptions) (*target, error){
	"hub":           hubTarget,
	"hub-epoll":     hubTarget,
	"hub-recovery":  hubTarget,
	"emitter":       emitterTarget,
	"phys":          physTarget,
	"floor":         floorTarget,
	"floor-emitter": floorEmitterTarget,
	"bare":          floorTarget,
	"bare-emitter":  floorEmitterTarget,
}

func (c cli) serve(ctx context.Context, args []string) error {
	f := c.flags("serve", serveText)
	var o serveOptions
	f.StringVar(&o.server, "server", "hub", "what to run: hub, hub-epoll, hub-recovery, emitter, phys, floor, floor-emitter, bare, bare-emitter")
	f.StringVar(&o.address, "addr", "127.0.0.1:0", "address of the Socket.IO server")
	controlAddr := f.String("control", "127.0.0.1:0", "loopback address of the control port")
	f.StringVar(&o.broker, "broker", "", "URL of the broker, redis://127.0.0.1:6379 say; empty: this node alone")
	f.IntVar(&o.node, "node", 0, "number of this node, from 0")
	f.IntVar(&o.nodes, "nodes", 1, "number of nodes")
	f.IntVar(&o.users, "users", 1, "number of users, which the floor divides over the nodes")
	stdin := f.Bool("stdin", false, "end when the standard input does")
	limit := f.Duration("for", 0, "end after this time; 0: never")
	names, help, err := c.parse(f, args)
	if help || err != nil {
		return err
	}
	if len(names) > 0 {
		return c.wrong(f, "what is %q?", names[0])
	}
	make, ok := servers[o.server]
	if !ok {
		return c.wrong(f, "there is no server %q", o.server)
	}
	if host, _, err := net.SplitHostPort(*controlAddr); err != nil || !loopback(host) {
		return c.wrong(f, "the control port must be on a loopback address")
	}
	proc.Descriptors()
	if *limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *limit)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *stdin {
		go func() { // ends with the process: a read cannot be interrupted
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	ln, err := net.Listen("tcp", *controlAddr)
	if err != nil {
		return err
	}
	t, err := make(ctx, o)
	if err != nil {
		ln.Close()
		return err
	}
	t.run = append(t.run, func(ctx context.Context) error { return t.control.Serve(ctx, ln) })
	return t.serve(ctx, cancel, func() error {
		return json.NewEncoder(c.out).Encode(control.Announcement{URL: t.url, Control: "http://" + ln.Addr().String()})
	})
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// serve runs everything until ctx is done or something fails, and announces when it is ready.
func (t *target) serve(ctx context.Context, cancel func(), announce func() error) error {
	var all sync.WaitGroup
	errs := make(chan error, len(t.run)+1)
	for _, run := range t.run {
		all.Go(func() {
			defer cancel() // they live and end together
			errs <- run(ctx)
		})
	}
	select {
	case <-t.ready:
	case <-ctx.Done():
	case <-always(t.ready == nil):
	}
	if ctx.Err() == nil {
		if err := announce(); err != nil {
			cancel()
			errs <- err
		}
	}
	<-ctx.Done()
	all.Wait()
	if t.close != nil {
		t.close()
	}
	close(errs)
	var err error
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// always is a channel that is closed when yes.
func always(yes bool) <-chan struct{} {
	if !yes {
		return nil
	}
	c := make(chan struct{})
	close(c)
	return c
}

func physTarget(context.Context, serveOptions) (*target, error) {
	s, err := phys.Listen()
	if err != nil {
		return nil, err
	}
	t := &target{url: s.URL(), run: []func(context.Context) error{s.Run}}
	t.control.Sender = s.Sender()
	t.control.Stats = func() control.Stats { return control.Stats{Connections: s.Connections()} }
	return t, nil
}

func floorOf(o serveOptions) floor.Floor {
	return floor.Floor{Broker: o.broker, Users: o.users, Nodes: o.nodes, Each: strings.HasPrefix(o.server, "bare")}
}

func floorTarget(_ context.Context, o serveOptions) (*target, error) {
	s, err := phys.Listen()
	if err != nil {
		return nil, err
	}
	live := make(chan struct{})
	t := &target{url: s.URL(), ready: live}
	t.run = []func(context.Context) error{
		s.Run,
		func(ctx context.Context) error {
			return floorOf(o).Follow(ctx, o.node, func() { close(live) }, s.Deliver)
		},
	}
	t.control.Stats = func() control.Stats { return control.Stats{Connections: s.Connections()} }
	return t, nil
}

func floorEmitterTarget(_ context.Context, o serveOptions) (*target, error) {
	sender, err := floorOf(o).Dial()
	if err != nil {
		return nil, err
	}
	t := &target{run: []func(context.Context) error{func(ctx context.Context) error { <-ctx.Done(); return nil }}}
	t.control.Sender = sender
	t.control.Stats = func() control.Stats { return control.Stats{} }
	return t, nil
}
