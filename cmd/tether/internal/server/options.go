package server

import (
	"log/slog"
	"net/http"
	"slices"

	"tether/cmd/tether/internal/config"
	"tether/hub"
	"tether/transport"
)

func hubOptions(c *config.Config, log *slog.Logger) hub.Options {
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
	if c.Devices.Exceed == "refuse-new" {
		o.Devices.Exceed = hub.RefuseNew
	}
	return o
}

func hubLimits(c *config.Config) hub.Limits {
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
		TotalHandshakeBytes:  c.Client.TotalHandshakes,
	}
}

func (s *Server) transportOptions(c *config.Config) transport.Options {
	return transport.Options{
		Path:           c.Client.Path,
		NoUpgrade:      !c.Client.Upgrade,
		Cookie:         transport.Cookie{Name: c.Client.Cookie},
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
func (s *Server) allows(_ *http.Request, origin string) bool {
	origins := *s.origins.Load()
	return slices.Contains(origins, origin) || slices.Contains(origins, "*")
}
