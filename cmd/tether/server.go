package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/tidy"
	"tether/transport"
)

// server is one run of the program, from the configuration to the exit code.
type server struct {
	loader loader
	loaded *loaded // as it was at the start
	level  *slog.LevelVar
	log    *slog.Logger

	broker      broker.Broker
	hub         *hub.Hub
	handler     *transport.Handler
	http        *http.Server
	listener    net.Listener
	api         *api
	health      *health
	auth        *auth
	certificate *certificate // nil without TLS
	origins     atomic.Pointer[[]string]
}

// run serves until a signal ends it, and returns the exit code.
func (s *server) run(ctx context.Context, signals <-chan os.Signal) int {
	if err := s.build(ctx); err != nil {
		s.log.Error("cannot start", "error", err)
		return exitFailed
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	ended := make(chan error, 2) // one for each of the next two
	hubCtx, drainHub := context.WithCancel(ctx)
	defer drainHub()
	hubEnded := make(chan struct{})
	go func() { // ends with hubCtx; finish waits for it
		defer close(hubEnded)
		if err := s.hub.Run(hubCtx); err != nil || hubCtx.Err() == nil {
			ended <- errors.Join(errors.New("the hub has ended"), err)
		}
	}()
	go func() { // ends with http.Shutdown, which finish calls
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			ended <- err
		}
	}()
	var watch sync.WaitGroup
	watch.Go(func() { tidy.Run(ctx) })
	if s.certificate != nil {
		watch.Go(func() { s.certificate.watch(ctx) })
	}
	s.log.Info("listening", "addr", s.listener.Addr().String(), "node", s.hub.Node(), "tls", s.certificate != nil,
		"broker", showURL(s.loaded.Broker))

	code, delay := exitDone, s.loaded.Drain.Delay
	if err := s.serve(signals, ended); err != nil {
		s.log.Error("cannot go on", "error", err)
		code, delay = exitFailed, 0
	}
	if !s.end(signals, delay, drainHub, hubEnded, ended) {
		s.log.Warn("a second signal: exit without a drain")
		return exitCutShort
	}
	stop()
	watch.Wait()
	s.log.Info("bye", "code", code)
	return code
}

// build makes everything, and listens, but serves nothing yet.
func (s *server) build(ctx context.Context) error {
	c := &s.loaded.Config
	b, err := openBroker(ctx, c.Broker)
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
	s.api = newAPI(c, s.hub, s.log)
	s.health = &health{hub: s.hub}
	if c.TLS.Cert != "" {
		if s.certificate, err = newCertificate(c.TLS, s.log); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	fresh, err := materialOf(c)
	if err != nil {
		return errors.Join(err, b.Close())
	}
	s.apply(c, fresh)

	mux := http.NewServeMux()
	s.handler = transport.NewHandler(s.hub, s.transportOptions(c))
	s.api.transport = s.handler.Stats
	mux.Handle(c.Client.Path, s.handler)
	s.health.routes(mux)
	if c.Emit.Enabled {
		s.api.routes(mux)
	}
	s.http = transport.NewServer(c.Addr, mux)
	s.http.ReadHeaderTimeout = c.HTTP.HeaderTimeout
	s.http.IdleTimeout = c.HTTP.IdleTimeout
	s.http.MaxHeaderBytes = c.HTTP.MaxHeaderBytes - 4096                  // net/http adds that much
	s.http.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug) // what clients do wrong
	plain, err := net.Listen("tcp", c.Addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = &mistake{Key: "addr", Source: s.loaded.sourceOf("addr"), Problem: c.Addr + " is taken by another program; give another address"}
		}
		return errors.Join(err, s.handler.Close(), b.Close())
	}
	if s.certificate != nil {
		s.listener = tls.NewListener(boundedListener{plain, c.Client.KernelBuffer}, s.certificate.tlsConfig())
	} else {
		s.listener = transport.Listener(plain)
	}
	return nil
}

func hubOptions(c *Config, log *slog.Logger) hub.Options {
	o := hub.Options{
		Node:            c.Node,
		Prefix:          c.Prefix,
		Events:          c.Emit.Events,
		Logger:          log,
		ConnectTimeout:  c.Client.ConnectTimeout,
		HookTimeout:     c.Client.HookTimeout,
		DrainWindow:     c.Drain.Window,
		Devices:         hub.Devices{Max: c.Devices.Max},
		Limits:          hubLimits(c),
		ForgetHandshake: true,

		AttachmentTimeout: c.Client.AttachmentTimeout,
	}
	if o.DrainWindow == 0 {
		o.DrainWindow = -1 // all at once
	}
	if c.Devices.Exceed == "end-oldest" {
		o.Devices.Exceed = hub.EndOldest
	}
	return o
}

func hubLimits(c *Config) hub.Limits {
	l := &c.Limits
	return hub.Limits{
		Namespaces:  l.Namespaces,
		Namespace:   l.Namespace,
		Auth:        l.Auth,
		Depth:       l.Depth,
		Args:        l.Args,
		EventName:   l.EventName,
		Attachments: l.Attachments,
		PacketBytes: l.PacketBytes,
		Events:      l.Events,
		EventBytes:  l.EventBytes,
		Held:        l.Held,
		HeldBytes:   l.HeldBytes,

		TotalAttachmentBytes: c.Client.TotalAttached,
	}
}

func (s *server) transportOptions(c *Config) transport.Options {
	return transport.Options{
		Path:           c.Client.Path,
		NoUpgrade:      !c.Client.Upgrade,
		Cookie:         c.Client.Cookie,
		PingInterval:   c.Client.PingInterval,
		PingTimeout:    c.Client.PingTimeout,
		UpgradeTimeout: c.Client.UpgradeTimeout,
		MaxPayload:     c.Client.MaxPayload,
		Transports:     c.Client.Transports,
		MaxConns:       c.Client.MaxConnections,
		QueueBytes:     c.Client.QueueBytes,

		TotalQueueBytes: c.Client.TotalQueue,
		InboundBytes:    c.Client.TotalInbound,
		WriteTimeout:    c.Client.WriteTimeout,
		MessageTimeout:  c.Client.MessageTimeout,
		KernelBuffer:    c.Client.KernelBuffer,
		ControlRate:     c.Client.ControlRate,
		MessageRate:     c.Client.MessageRate,
		Overflow: map[string]hub.Overflow{
			"close": hub.CloseSlow, "drop-newest": hub.DropNewest, "drop-oldest": hub.DropOldest,
		}[c.Client.Overflow],
		Compress: c.Client.Compress,
		Epoll:    c.Client.Epoll,
		CORS:     transport.CORS{Allow: s.allows, Credentials: c.CORS.Credentials},
		Logger:   s.log,
	}
}

// allows asks the origins as of the last reload.
func (s *server) allows(_ *http.Request, origin string) bool {
	origins := *s.origins.Load()
	return slices.Contains(origins, origin) || slices.Contains(origins, "*")
}

// serve returns nil when a signal asks for the end, and the error of what has ended by itself.
func (s *server) serve(signals <-chan os.Signal, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return err
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				s.log.Info("stopping", "signal", sig.String(), "connections", s.hub.Stats().Connections)
				return nil
			}
			s.reload()
		}
	}
}

// end drains and closes everything, and reports false when another signal came before it was done.
func (s *server) end(signals <-chan os.Signal, delay time.Duration, drainHub func(), hubEnded <-chan struct{}, ended <-chan error) bool {
	s.health.draining.Store(true)
	finished := make(chan struct{})
	go func() { // bounded by the delay, the drain window and the timeouts; left behind by a second signal
		defer close(finished)
		select {
		case <-time.After(delay):
		case <-hubEnded:
		}
		drainHub()
		s.finish(hubEnded, ended)
	}()
	for {
		select {
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				return false
			}
		case <-finished:
			return true
		}
	}
}

// finish is the shutdown in the order that package hub gives.
func (s *server) finish(hubEnded <-chan struct{}, ended <-chan error) {
	<-hubEnded
	select {
	case err := <-ended:
		s.log.Warn("drain", "error", err)
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.loaded.Drain.Timeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.log.Warn("requests are cut off", "error", err)
		if err := s.http.Close(); err != nil {
			s.log.Warn("close", "error", err)
		}
	}
	if err := errors.Join(s.handler.Close(), s.broker.Close()); err != nil {
		s.log.Warn("close", "error", err)
	}
}

// material is what has to be read from elsewhere, and may fail, before a reload changes anything.
type material struct {
	emitKeys []Secret
	auth     authSettings
}

func materialOf(c *Config) (m material, err error) {
	m.auth.required = c.Auth.Required
	if c.Auth.Mode == "token" {
		keys, err := expand(c.Auth.Keys)
		if err != nil {
			return m, err
		}
		if m.auth.ring, err = keyring(keys); err != nil {
			return m, err
		}
	}
	if c.Emit.Enabled {
		m.emitKeys, err = expand(c.Emit.Keys)
	}
	return m, err
}

// apply takes what is marked with the tag reload into use.
func (s *server) apply(c *Config, m material) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Log.Level)) // one of the enum
	s.level.Set(level)
	s.api.setKeys(m.emitKeys)
	s.auth.now.Store(&m.auth)
	s.origins.Store(&c.CORS.Origins)
}

// boundedListener bounds what the kernel holds for a connection, which the transport cannot reach
// through TLS, and does by itself without.
type boundedListener struct {
	net.Listener
	size int // of each of the two buffers in bytes
}

func (l boundedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		// An error is that the connection has gone, which the first read says again.
		_ = tcp.SetReadBuffer(l.size)
		_ = tcp.SetWriteBuffer(l.size)
	}
	return c, err
}
