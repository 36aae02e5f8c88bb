// Package server is a hub behind HTTP, made of a configuration: Socket.IO clients, the API that any language
// emits through, and what operators ask.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tether/adminui"
	"tether/broker"
	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/otlp"
	"tether/follow"
	"tether/hub"
	"tether/internal/tidy"
	"tether/metrics"
	"tether/rebalance"
	"tether/refresh"
	"tether/relay"
	"tether/revoke"
	"tether/transport"
	"tether/webhook"
)

// ErrCutShort is what Run returns when a second signal comes while it drains.
var ErrCutShort = errors.New("a second signal has cut the drain short")

// Server is one run, from the configuration to the end.
type Server struct {
	loader config.Loader
	loaded *config.Loaded // as it was at the start
	logs   *Logs
	log    *slog.Logger // of the part server

	broker      broker.Broker
	hub         *hub.Hub
	sockets     *transport.Handler
	relay       *relay.Relay // nil without relay.on
	mux         *http.ServeMux
	listener    net.Listener
	admin       net.Listener  // nil without a page for operators
	drained     chan struct{} // one token: an operator has told this node to stop
	health      health
	gone        goneNodes
	adminKeys   atomic.Pointer[[]keyHash] // replaced as a whole by a reload
	api         *api
	auth        *auth
	tokens      *refresh.Refresher // nil if clients are anonymous
	hooks       *webhook.Sender    // nil without webhook.url
	metrics     *metrics.Collector
	follower    *follow.Follower // nil if the operators had no key at the start
	traces      *otlp.Traces     // nil without tracing.on
	adminUI     *adminui.UI      // nil without admin-ui.mode
	certificate *certificate     // nil without TLS
	origins     atomic.Pointer[[]string]
}

// New makes a server of what the loader has loaded. A reload loads again, and changes the levels of logs.
func New(loader config.Loader, loaded *config.Loaded, logs *Logs) *Server {
	return &Server{loader: loader, loaded: loaded, log: logs.Of("server"), logs: logs, drained: make(chan struct{}, 1)}
}

// Run serves until SIGINT or SIGTERM, and drains then. SIGHUP loads the configuration again. At a second
// SIGINT or SIGTERM it returns ErrCutShort, and leaves everything as it is for the process to exit.
func (s *Server) Run(ctx context.Context, signals <-chan os.Signal) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer s.endTraces()
	if err := s.build(ctx); err != nil {
		return err
	}
	var watch sync.WaitGroup
	watch.Go(func() { tidy.Run(ctx) })
	if s.certificate != nil {
		watch.Go(func() { s.certificate.watch(ctx) })
	}
	closeAdmin := s.serveAdmin()
	defer closeAdmin()
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
		case <-s.drained:
			stop()
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
	key, err := c.ClusterKeys()
	if err != nil {
		return err
	}
	b, err := config.OpenBroker(ctx, c.Broker)
	if err != nil {
		return err
	}
	s.broker = b
	o := hubOptions(c, key, s.logs.Of("hub"))
	o.OnMembers = s.gone.changed
	o.Tracers, err = s.tracers(ctx, c)
	if err == nil {
		s.hub, err = hub.New(b, o)
	}
	var list *revoke.List
	if err == nil {
		list, err = s.attach(c)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	if c.TLS.Cert != "" {
		if s.certificate, err = newCertificate(c.TLS, s.log); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	s.metrics = metrics.New()
	options := s.transportOptions(c)
	if c.Relay.On {
		if s.relay, err = relay.New(s.hub.Emitter().Cluster(), relay.Options{Peer: c.Relay.Peer, Keys: key}); err != nil {
			return errors.Join(err, b.Close())
		}
		options.Relay = s.relay
	}
	if s.sockets, err = transport.NewHandler(s.hub, options); err != nil {
		return errors.Join(err, b.Close())
	}
	s.metrics.Watch(s.hub, s.sockets)
	s.api = newAPI(c, s.hub, list, s.sockets, metricsHandler(s.metrics), s.log)
	s.api.tokens, s.api.traces, s.api.hooks = s.tokens, s.traces, s.hooks
	fresh, err := materialOf(c)
	if err == nil {
		s.apply(c, fresh)
		s.routes(ctx)
		err = s.listenAll(c)
	}
	if err != nil {
		return errors.Join(err, s.sockets.Close(), b.Close())
	}
	return nil
}

// attach makes what runs with the hub.
func (s *Server) attach(c *config.Config) (*revoke.List, error) {
	list, err := revoke.New(s.hub, revoke.Options{Lifetime: c.Revoke.Lifetime, Max: c.Revoke.Max, Logger: s.logs.Of("hub")})
	if err == nil {
		err = s.watchUsers(c)
	}
	if err == nil {
		_, err = rebalance.New(s.hub, rebalance.Options{
			On: c.Balance.On, Percent: c.Balance.Percent, Least: c.Balance.Least, Pace: c.Balance.Pace,
			Namespaces: c.Namespaces, Logger: s.logs.Of("hub"),
		})
	}
	if err == nil {
		err = s.watchTokens(c, list)
	}
	if err == nil {
		err = s.serveAdminUI(c)
	}
	return list, err
}

// listenAll opens the listeners, or none.
func (s *Server) listenAll(c *config.Config) (err error) {
	if s.listener, err = s.listen("addr", c.Addr); err != nil || c.Admin.Addr == "" {
		return err
	}
	if s.admin, err = s.listen("admin.addr", c.Admin.Addr); err != nil {
		s.listener.Close()
	}
	return err
}

func (s *Server) routes(ctx context.Context) {
	s.mux = http.NewServeMux()
	s.mux.Handle(s.loaded.Client.Path, s.sockets)
	s.health = health{
		hub: s.hub, list: s.auth.list, sockets: s.sockets, stopping: ctx.Done(), started: time.Now(),
		maxConns: s.loaded.Client.MaxConnections, maxQueue: s.loaded.Client.TotalQueue,
	}
	s.health.routes(s.mux)
	if s.relay != nil && s.loaded.Relay.Peer != "" {
		s.mux.Handle(relay.Path, s.relay)
	}
	s.answerNodes()
	s.api.routes(s.mux)
}

func (s *Server) listen(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &config.Mistake{Key: key, Source: s.loaded.SourceOf(key), Problem: addr + " is taken by another program; give another address"}
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

// serveAdmin serves the page for operators until the function that it returns is called: during a drain, too.
func (s *Server) serveAdmin() (end func()) {
	if s.admin == nil {
		return func() {}
	}
	web := transport.NewServer("", (&admin{server: s}).handler())
	web.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	l := s.admin
	if s.certificate != nil {
		l = tls.NewListener(l, s.certificate.tlsConfig())
	}
	s.log.Info("the page for operators", "addr", s.admin.Addr().String())
	served := make(chan struct{})
	go func() { // until Close; received below
		defer close(served)
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the page for operators has failed", "error", err)
		}
	}()
	return func() {
		_ = web.Close()
		<-served
	}
}
