package server

import "tether/cmd/tether/internal/config"

// reload reads the configuration again and takes into use what can change in a running server. A
// mistake anywhere leaves everything as it is.
func (s *Server) reload() {
	next, err := s.loader.Load()
	if err != nil {
		s.log.Error("reload: the configuration has a mistake, nothing has changed", "error", err)
		return
	}
	waiting := s.loaded.Differ(next)
	// A mode is not reloaded, so neither is what depends on it.
	next.Auth.Mode, next.Emit.Enabled = s.loaded.Auth.Mode, s.loaded.Emit.Enabled
	if s.adminUI == nil || next.AdminUI.Mode == config.AdminUIOff {
		next.AdminUI.Password = ""
	}
	fresh, err := materialOf(&next.Config)
	if err != nil {
		s.log.Error("reload: nothing has changed", "error", err)
		return
	}
	if s.certificate != nil {
		if err := s.certificate.load(); err != nil {
			s.log.Error("reload: the certificate cannot be read, nothing has changed", "error", err)
			return
		}
	}
	s.apply(&next.Config, fresh)
	s.log.Info("reloaded")
	if len(waiting) > 0 {
		s.log.Warn("reload: these settings have changed too and need a restart", "keys", waiting)
	}
}

// material is what has to be read from elsewhere, and may fail, before a reload changes anything.
type material struct {
	emitKeys, statsKeys, adminKeys []config.Secret
	adminUI                        []config.Secret // the password, if there is one
	auth                           authSettings
}

func materialOf(c *config.Config) (m material, err error) {
	m.auth.required = c.Auth.Required
	if c.Auth.Mode == "token" {
		keys, err := config.Expand(c.Auth.Keys)
		if err != nil {
			return m, err
		}
		if m.auth.ring, err = config.Keyring(keys); err != nil {
			return m, err
		}
	}
	if c.Emit.Enabled {
		if m.emitKeys, err = config.Expand(c.Emit.Keys); err != nil {
			return m, err
		}
	}
	if c.AdminUI.Password != "" {
		if m.adminUI, err = config.Expand([]config.Secret{c.AdminUI.Password}); err != nil {
			return m, err
		}
	}
	if m.adminKeys, err = config.Expand(c.Admin.Keys); err != nil {
		return m, err
	}
	m.statsKeys, err = config.Expand(c.Stats.Keys)
	return m, err
}

// apply takes what is marked with the tag reload into use.
func (s *Server) apply(c *config.Config, m material) {
	s.logs.set(c.Log)
	s.api.setKeys(m.emitKeys, m.statsKeys)
	s.adminKeys.Store(hashesOf(m.adminKeys))
	if s.follower != nil {
		if err := s.follower.SetKeys(Texts(m.adminKeys)); err != nil {
			s.log.Warn("reload: events are followed with the old keys until a restart", "error", err)
		}
	}
	if s.adminUI != nil && len(m.adminUI) > 0 {
		if err := s.adminUI.SetPassword(string(m.adminUI[0])); err != nil {
			s.log.Warn("reload: the Admin UI has the old password until a restart", "error", err)
		}
	}
	s.traces.SetEvery(c.Tracing.Every)
	s.auth.now.Store(&m.auth)
	s.origins.Store(&c.CORS.Origins)
}
