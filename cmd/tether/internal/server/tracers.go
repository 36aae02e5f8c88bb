package server

import (
	"context"

	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/otlp"
	"tether/follow"
	"tether/hub"
)

// Texts are keys as other packages take them.
func Texts(keys []config.Secret) []string {
	texts := make([]string, len(keys))
	for i, k := range keys {
		texts[i] = string(k)
	}
	return texts
}

// tracers are told of events on their way.
func (s *Server) tracers(ctx context.Context, c *config.Config) (all []hub.Tracer, err error) {
	keys, err := config.Expand(c.Admin.Keys)
	if err == nil && len(keys) > 0 {
		s.follower, err = follow.New(follow.Options{Keys: Texts(keys), Every: c.Admin.FollowEvery})
		all = append(all, s.follower)
	}
	if err == nil && c.Tracing.On {
		s.traces, err = otlp.New(ctx, otlp.Options{
			Endpoint: c.Tracing.Endpoint, Every: c.Tracing.Every, Node: c.Node, Logger: s.log,
		})
		if err == nil {
			all = append(all, s.traces.Tracer())
		}
	}
	return all, err
}

// endTraces sends the last spans, when nothing makes any more.
func (s *Server) endTraces() {
	ctx, cancel := context.WithTimeout(context.Background(), config.FlushTime)
	defer cancel()
	s.traces.Close(ctx)
}
