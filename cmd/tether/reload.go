package main

import "reflect"

// reload reads the configuration again and takes into use what can change in a running server. A
// mistake anywhere leaves everything as it is.
func (s *server) reload() {
	next, err := s.loader.load()
	if err != nil {
		s.log.Error("reload: the configuration has a mistake, nothing has changed", "error", err)
		return
	}
	waiting := needRestart(s.loaded, next)
	// A mode is not reloaded, so neither is what depends on it.
	next.Auth.Mode, next.Emit.Enabled = s.loaded.Auth.Mode, s.loaded.Emit.Enabled
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

// needRestart names the settings that differ and that a reload leaves alone.
func needRestart(old, next *loaded) []string {
	var keys []string
	was := settings(old.model)
	for i, f := range settings(next.model) {
		if !f.Tag.Has("reload") && !reflect.DeepEqual(was[i].Target.Interface(), f.Target.Interface()) {
			keys = append(keys, f.Name)
		}
	}
	return keys
}
