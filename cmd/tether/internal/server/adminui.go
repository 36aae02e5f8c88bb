package server

import (
	"tether/adminui"
	"tether/cmd/tether/internal/config"
)

// serveAdminUI lets the pages of the official Admin UI connect, if they are to.
func (s *Server) serveAdminUI(c *config.Config) error {
	o := c.AdminUI
	if o.Mode == config.AdminUIOff {
		return nil
	}
	password, err := config.Expand([]config.Secret{o.Password})
	if err != nil {
		return err
	}
	s.adminUI, err = adminui.New(s.hub, adminui.Options{
		Username: o.Username, Password: string(password[0]), Namespace: o.Namespace, Namespaces: c.Namespaces,
		ReadOnly: o.ReadOnly, Development: o.Mode == config.AdminUIDevelopment, MaxSockets: o.MaxSockets,
		Engine: s.engine, Logger: s.log,
	})
	return err
}

// engine are the figures of the transport. They are asked for while the hub runs.
func (s *Server) engine() adminui.Engine {
	t := s.sockets.Stats()
	return adminui.Engine{
		Opened: t.Opened, Closed: t.Opened - min(t.Opened, uint64(t.Sessions)), BytesIn: t.BytesIn, BytesOut: t.BytesOut,
	}
}
