package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

const millionText = `
bench million simulates many registered users on one node: a real hub over clients that are nothing
but a counter. There are no sockets, so what it shows is the hub alone: memory for each user (add the
carrier's from bench run idle), how long it takes to hand a broadcast to every connection, lookups by
targeted emits, and whether users who come and go hold up broadcasts.`

// crowd is a hub with simulated clients.
type crowd struct {
	hub       *hub.Hub
	clients   []engine.Receiver
	connected chan struct{} // one value for each client that has been answered
	taken     atomic.Uint64 // packets
}

// extra is a simulated client's wire.
type extra struct {
	c        *crowd
	answered atomic.Bool
}

func (*extra) ID() string          { return "simulated" }
func (*extra) Transport() string   { return "websocket" }
func (*extra) Close(engine.Reason) {}

func (*extra) Behind() (<-chan struct{}, error) { return nil, nil }

func (x *extra) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	if !log.Add(e, from) {
		return engine.ErrDisconnected
	}
	return x.Send(&e.Packet, from)
}

func (x *extra) Send(*engine.Packet, *engine.Gate) error {
	if !x.answered.Load() && x.answered.CompareAndSwap(false, true) {
		x.c.connected <- struct{}{}
		return nil
	}
	x.c.taken.Add(1)
	return nil
}

func (c cli) million(ctx context.Context, args []string) error {
	f := c.flags("million", millionText)
	users := f.Int("users", 1_000_000, "number of users")
	profile := f.String("mutexprofile", "", "write a mutex profile to this file")
	names, help, err := c.parse(f, args)
	if help || err != nil {
		return err
	}
	if len(names) > 0 || *users < 1 || *users > 1<<24 {
		fmt.Fprintln(c.err, "bench: million takes no names, and up to 16 million users")
		return errUsage
	}
	if *profile != "" {
		runtime.SetMutexProfileFraction(1)
	}
	b := memory.NewBus().Broker()
	defer b.Close()
	started := make(chan struct{})
	h, err := hub.New(b, hub.Options{
		Logger: slog.New(slog.DiscardHandler), ForgetHandshake: true, DrainWindow: -1,
		OnStart: func(context.Context, *hub.Hub) error { close(started); return nil },
	})
	if err != nil {
		return err
	}
	h.Of("/").OnConnect(register)
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }() // waited for below
	select {
	case <-started:
	case err := <-ended:
		stop()
		return errors.Join(err, ctx.Err())
	}
	crowd := &crowd{hub: h, connected: make(chan struct{}, 1024)}
	err = crowd.report(ctx, c.out, *users)
	for _, client := range crowd.clients {
		client.Closed(engine.ReasonTransportClose)
	}
	stop()
	if e := <-ended; err == nil {
		err = e
	}
	if err == nil && *profile != "" {
		err = writeProfile(*profile)
	}
	return err
}

func writeProfile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("mutex").WriteTo(f, 0), f.Close())
}

// report connects the users and prints one line for each thing it finds.
func (c *crowd) report(ctx context.Context, out io.Writer, users int) error {
	before := weighSelf()
	took, err := timed(func() error { return c.connect(ctx, 0, users) })
	if err != nil {
		return err
	}
	after := weighSelf()
	fmt.Fprintf(out, "%-34s %d in %.1f s, %.1f µs each\n", "registered users", users, took.Seconds(), us(took)/float64(users))
	fmt.Fprintf(out, "%-34s %.0f bytes of heap, %.0f with what the runtime holds\n", "each user",
		float64(after.live-before.live)/float64(users), float64(after.held-before.held)/float64(users))

	alone, err := c.broadcasts(ctx, users)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-34s %.0f ms, %.0f ns each (median of %d)\n", "a broadcast is with all after",
		us(alone)/1e3, float64(alone)/float64(users), broadcastCount)

	const emits = 200_000
	e := c.hub.Emitter()
	took, err = timed(func() error {
		for i := range emits {
			if _, err := e.Emit(ctx, room(uint32(i*7919%users)), "m", "hello"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-34s %.2f µs each, one goroutine\n", "emits to one user after the other", us(took)/emits)
	return c.churn(ctx, out, users)
}

// churn broadcasts while others come and go.
func (c *crowd) churn(ctx context.Context, out io.Writer, users int) error {
	waited := mutexWait()
	stop := make(chan struct{})
	var came atomic.Int64
	var failed error
	var all sync.WaitGroup
	all.Go(func() { // waited for below
		const group = 100
		for n := users; ; n += group {
			select {
			case <-stop:
				return
			default:
			}
			if failed = c.connect(ctx, n, group); failed != nil {
				return
			}
			stay := len(c.clients) - group
			for _, client := range c.clients[stay:] {
				client.Closed(engine.ReasonTransportClose)
			}
			c.clients = c.clients[:stay]
			came.Add(group)
		}
	})
	from := time.Now()
	busy, err := c.broadcasts(ctx, users)
	close(stop)
	all.Wait()
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	seconds := time.Since(from).Seconds()
	fmt.Fprintf(out, "%-34s %.0f ms while %.0f users/s came and went; goroutines waited %.1f ms/s for mutexes\n",
		"a broadcast is with all after", us(busy)/1e3, float64(came.Load())/seconds, 1e3*(mutexWait()-waited)/seconds)
	return nil
}

// connect connects and registers n users, the first of them with the given number.
func (c *crowd) connect(ctx context.Context, first, n int) error {
	r := &http.Request{RemoteAddr: "127.0.0.1:54321", RequestURI: "/socket.io/?EIO=4&transport=websocket"}
	const inFlight = 512
	begun := 0
	for answered := 0; answered < n; answered++ {
		for ; begun < n && begun-answered < inFlight; begun++ {
			client, err := c.hub.Attach(&extra{c: c}, r)
			if err != nil {
				return err
			}
			c.clients = append(c.clients, client)
			text := strconv.AppendInt([]byte(`0{"user":"u`), int64(first+begun), 10)
			if err := client.Text(append(text, `"}`...)); err != nil {
				return err
			}
		}
		select {
		case <-c.connected:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

const broadcastCount = 9

// broadcasts returns the median time after which a broadcast has been handed to every connection.
func (c *crowd) broadcasts(ctx context.Context, users int) (time.Duration, error) {
	var times []time.Duration
	for range broadcastCount {
		before := c.taken.Load()
		took, err := timed(func() error {
			_, err := c.hub.Emitter().Emit(ctx, hub.Everyone, "m", "hello")
			return err
		})
		if err != nil {
			return 0, err
		}
		if got := c.taken.Load() - before; got < uint64(users) {
			return 0, fmt.Errorf("a broadcast reached %d of %d users", got, users)
		}
		times = append(times, took)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

func timed(do func() error) (time.Duration, error) {
	from := time.Now()
	err := do()
	return time.Since(from), err
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

type weight struct{ live, held uint64 }

// weighSelf is the memory of this process after a garbage collection.
func weighSelf() weight {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return weight{live: m.HeapAlloc, held: m.Sys - m.HeapReleased}
}

// mutexWait is the time that goroutines have waited for mutexes, in seconds.
func mutexWait() float64 {
	s := []metrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64()
}
