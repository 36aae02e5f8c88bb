// Package server is a hub behind HTTP, made of a configuration: Socket.IO clients, the API that any language
// emits through, and what operators ask.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"tether/broker"
	"tether/cmd/tether/internal/config"
	"tether/hub"
	"tether/internal/tidy"
	"tether/transport"
)

// ErrCutShort is what Run returns when a second signal comes while it drains.
var ErrCutShort = errors.New("a second signal has cut the drain short")

// Server is one run, from the configuration to the end.
type Server struct {
	loader config.Loader
	loaded *config.Loaded // as it was at the start
	level  *slog.LevelVar
	log    *slog.Logger

	broker      broker.Broker
	hub         *hub.Hub
	sockets     *transport.Handler
	mux         *http.ServeMux
	listener    net.Listener
	api         *api
	auth        *auth
	certificate *certificate // nil without TLS
	origins     atomic.Pointer[[]string]
}

// New makes a server of what the loader has loaded. A reload loads again. The level is that of log, which
// a reload changes.
func New(loader config.Loader, loaded *config.Loaded, log *slog.Logger, level *slog.LevelVar) *Server {
	return &Server{loader: loader, loaded: loaded, log: log, level: level}
}

// Run serves until SIGINT or SIGTERM, and drains then. SIGHUP loads the configuration again. At a second
// SIGINT or SIGTERM it returns ErrCutShort, and leaves everything as it is for the process to exit.
func (s *Server) Run(ctx context.Context, signals <-chan os.Signal) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := s.build(ctx); err != nil {
		return err
	}
	var watch sync.WaitGroup
	watch.Go(func() { tidy.Run(ctx) })
	if s.certificate != nil {
		watch.Go(func() { s.certificate.watch(ctx) })
	}
	ended := make(chan error, 1)
	go func() { ended <- s.sockets.Serve(ctx, s.listener, s.mux, s.hub, s.serveOptions()) }() // until stop; received below
	s.log.Info("listening", "addr", s.listener.Addr().String(), "node", s.hub.Node(), "tls", s.certificate != nil,
		"broker", config.ShowURL(s.loaded.Broker))
	for {
		select {
		case err := <-ended:
			stop()
			watch.Wait()
			return errors.Join(err, s.broker.Close())
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP && ctx.Err() == nil:
				s.reload()
			case sig == syscall.SIGHUP:
			case ctx.Err() != nil:
				return ErrCutShort
			default:
				s.log.Info("told to stop; a second signal ends the program at once", "signal", sig.String())
				stop()
			}
		}
	}
}

// build makes everything, and listens, but serves nothing yet. The server is not ready any more when ctx is
// done.
func (s *Server) build(ctx context.Context) error {
	c := &s.loaded.Config
	b, err := config.OpenBroker(ctx, c.Broker)
	if err != nil {
		return err
	}
	s.broker = b
	if s.hub, err = hub.New(b, hubOptions(c, s.log)); err != nil {
		return errors.Join(err, b.Close())
	}
	s.auth = &auth{leeway: c.Auth.Leeway}
	for _, name := range c.Namespaces {
		s.hub.Of(name).OnConnect(s.auth.connect)
	}
	if c.TLS.Cert != "" {
		if s.certificate, err = newCertificate(c.TLS, s.log); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	if s.sockets, err = transport.NewHandler(s.hub, s.transportOptions(c)); err != nil {
		return errors.Join(err, b.Close())
	}
	s.api = newAPI(c, s.hub, s.sockets, s.log)
	fresh, err := materialOf(c)
	if err == nil {
		s.apply(c, fresh)
		s.routes(ctx)
		s.listener, err = s.listen()
	}
	if err != nil {
		return errors.Join(err, s.sockets.Close(), b.Close())
	}
	return nil
}

func (s *Server) routes(ctx context.Context) {
	s.mux = http.NewServeMux()
	s.mux.Handle(s.loaded.Client.Path, s.sockets)
	health{hub: s.hub, stopping: ctx.Done()}.routes(s.mux)
	s.api.routes(s.mux)
}

func (s *Server) listen() (net.Listener, error) {
	addr := s.loaded.Addr
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &config.Mistake{Key: "addr", Source: s.loaded.SourceOf("addr"), Problem: addr + " is taken by another program; give another address"}
	}
	return l, err
}

func (s *Server) serveOptions() transport.ServeOptions {
	c := &s.loaded.Config
	o := transport.ServeOptions{
		Delay:   c.Drain.Delay,
		Timeout: c.Drain.Timeout,
		HTTP: func(h *http.Server) {
			h.ReadHeaderTimeout = c.HTTP.HeaderTimeout
			h.IdleTimeout = c.HTTP.IdleTimeout
			h.MaxHeaderBytes = c.HTTP.MaxHeaderBytes - 4096 // net/http adds that much
		},
	}
	if s.certificate != nil {
		o.TLS = s.certificate.tlsConfig()
	}
	return o
}
