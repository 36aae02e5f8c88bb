package server

import (
	"cmp"
	"errors"

	"tether/cmd/tether/internal/config"
	"tether/presence"
	"tether/webhook"
)

// watchUsers makes the presence of the hub, and the webhook that it tells, if there is one.
func (s *Server) watchUsers(c *config.Config) error {
	log := s.logs.Of("hub")
	if c.Webhook.URL == "" {
		_, err := presence.New(s.hub, presence.Options{Logger: log})
		return err
	}
	url, err := config.Expand([]config.Secret{c.Webhook.URL})
	if err != nil {
		return err
	}
	if len(url) != 1 {
		return errors.New("webhook.url: the file has more than one line")
	}
	keys, err := config.Expand(c.Webhook.Keys)
	if err != nil {
		return err
	}
	o := webhook.Options{
		URL: string(url[0]), Queue: c.Webhook.Queue, Patience: c.Webhook.Patience, Logger: log,
		Grace: cmp.Or(c.Webhook.Grace, -1), // none
	}
	for _, k := range keys {
		o.Keys = append(o.Keys, string(k))
	}
	s.hooks, err = webhook.New(s.hub, o)
	return err
}
