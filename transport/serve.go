package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Runner is what [Handler.Serve] runs beside the HTTP server: a hub. Run returns nil when ctx is done and
// the clients have been sent away.
type Runner interface {
	Run(ctx context.Context) error
}

// ServeOptions configure [Handler.Serve]. The zero value is the documented default of every field.
type ServeOptions struct {
	// Delay is how long everything goes on as before when the context is done. In that time load balancers
	// notice that the server is not ready any more, and send new clients elsewhere. Default 0.
	Delay time.Duration

	// Timeout is how long requests in progress may take after the clients have gone. Then their connections
	// are closed. Default 10 s.
	Timeout time.Duration

	// TLS makes the server speak TLS. Its NextProtos count for nothing: a WebSocket begins as HTTP/1.1.
	// Default: no TLS.
	TLS *tls.Config

	// HTTP changes the server that [NewServer] has made before it serves. Default: it stays as it is.
	HTTP func(*http.Server)
}

// Serve runs hub and serves app on ln until ctx is done. Then it ends both in the right order, and returns
// nil:
//
//  1. For o.Delay everything goes on as before.
//  2. The hub drains. It refuses new clients, and sends the others away over its drain window.
//  3. The HTTP server takes no more requests. Those in progress have o.Timeout to finish.
//  4. The handler ends what is left, as [Handler.Close] does.
//
// When the hub or the HTTP server fails, steps 2 to 4 follow at once, and Serve returns the error.
//
// app is everything that the server serves, with h at Options.Path. ln is plain TCP, and is closed. The
// caller closes the broker after Serve has returned.
func (h *Handler) Serve(ctx context.Context, ln net.Listener, app http.Handler, hub Runner, o ServeOptions) error {
	orDuration(&o.Timeout, 10*time.Second)
	server := NewServer("", app)
	server.ErrorLog = slog.NewLogLogger(h.o.Logger.Handler(), slog.LevelDebug) // mistakes of clients
	if o.HTTP != nil {
		o.HTTP(server)
	}
	quiet := &quietConns{conns: map[net.Conn]struct{}{}, then: server.ConnState}
	server.ConnState = quiet.track
	alive, fail := context.WithCancel(context.WithoutCancel(ctx)) // until one of the two has ended
	defer fail()
	hubCtx, drain := context.WithCancel(alive)
	defer drain()
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { // until drain; received below
		defer fail()
		ran <- hub.Run(hubCtx)
	}()
	go func() { // until shutdown; received below
		defer fail()
		served <- server.Serve(h.listener(ln, o.TLS))
	}()

	select {
	case <-ctx.Done():
		h.o.Logger.Info("stopping", "connections", h.Len(), "delay", o.Delay)
		select {
		case <-time.After(o.Delay):
		case <-alive.Done():
		}
	case <-alive.Done():
	}
	drain()
	err := <-ran
	quiet.close()
	err = errors.Join(err, h.shutdown(server, o.Timeout), h.Close())
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("transport: serve: %w", e))
	}
	h.o.Logger.Info("stopped")
	return err
}

// shutdown ends the HTTP server. Requests that take longer than timeout are cut off: their clients are slow,
// and the program has not failed.
func (h *Handler) shutdown(server *http.Server, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		h.o.Logger.Warn("requests are cut off", "after", timeout)
		err = server.Close()
	}
	return err
}

// quietConns are the connections that have sent nothing yet. A browser opens one in reserve, and
// [http.Server.Shutdown] waits five seconds for it.
type quietConns struct {
	then func(net.Conn, http.ConnState) // of somebody else; may be nil

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // guarded by mu
	closed bool                  // guarded by mu
}

// track is a hook for [http.Server.ConnState].
func (q *quietConns) track(c net.Conn, state http.ConnState) {
	q.mu.Lock()
	closed := q.closed
	if state == http.StateNew {
		q.conns[c] = struct{}{}
	} else {
		delete(q.conns, c)
	}
	q.mu.Unlock()
	if closed && state == http.StateNew {
		c.Close()
	}
	if q.then != nil {
		q.then(c, state)
	}
}

// close closes them, and those that come later.
func (q *quietConns) close() {
	q.mu.Lock()
	q.closed = true
	all := slices.Collect(maps.Keys(q.conns))
	q.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

func (h *Handler) listener(ln net.Listener, c *tls.Config) net.Listener {
	if c == nil {
		return Listener(ln)
	}
	c = c.Clone()
	c.NextProtos = []string{"http/1.1"}
	// The handler bounds the buffers of a WebSocket by itself, but it does not reach through TLS.
	return tls.NewListener(boundListener{ln, h.o.KernelBuffer, h.o.KernelBuffer}, c)
}
