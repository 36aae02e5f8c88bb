package server

import (
	"log/slog"
	"net/http"
	"slices"

	"tether/adminui"
	"tether/broker/seal"
	"tether/cmd/tether/internal/config"
	"tether/hub"
	"tether/transport"
)

func hubOptions(c *config.Config, key seal.Keys, log *slog.Logger) hub.Options {
	o := hub.Options{
		Node:            c.Node,
		Address:         c.Relay.Peer,
		Prefix:          c.Prefix,
		Key:             key,
		Events:          c.Emit.Events,
		Logger:          log,
		ConnectTimeout:  c.Client.ConnectTimeout,
		HookTimeout:     c.Client.HookTimeout,
		DrainWindow:     c.Drain.Window,
		ExpiryNotice:    c.Auth.Notice,
		Devices:         hub.Devices{Max: c.Devices.Max, RefuseNew: c.Devices.Exceed == "refuse-new"},
		Limits:          hubLimits(c),
		ForgetHandshake: true,
		Recovery: hub.Recovery{
			On: c.Recover.On, All: c.Recover.All, Window: c.Recover.Window,
			SessionBytes: c.Recover.SessionBytes, UserBytes: c.Recover.UserBytes, TotalBytes: c.Recover.TotalBytes,
			Log: c.Recover.Log,
		},

		AttachmentTimeout: c.Client.AttachmentTimeout,
	}
	if c.AdminUI.Mode != config.AdminUIOff && len(o.Events) > 0 {
		o.Events = slices.Concat(o.Events, adminui.Events())
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
		UpgradeWait:    c.Relay.UpgradeWait,
		MaxPayload:     c.Client.MaxPayload,
		Transports:     c.Client.Transports,
		MaxConns:       c.Client.MaxConnections,
		QueueBytes:     c.Client.QueueBytes,

		TotalQueueBytes: c.Client.TotalQueue,
		UnfinishedBytes: c.Client.TotalUnfinished,
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
		Logger:   s.logs.Of("transport"),

		OnWritten: s.metrics.Written,
	}
}

// allows asks the origins as of the last reload.
func (s *Server) allows(_ *http.Request, origin string) bool {
	origins := *s.origins.Load()
	return slices.Contains(origins, origin) || slices.Contains(origins, "*")
}
