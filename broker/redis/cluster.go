package redis

import (
	"context"
	"tether/broker"
)

type cluster struct{ core }

func newCluster(t target, o Options) *cluster     { return nil }
func (c *cluster) ping(ctx context.Context) error { return nil }
func (c *cluster) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Reach, error) {
	return nil, nil
}
func (c *cluster) Run(ctx context.Context, h broker.Handler) error { return nil }
func (c *cluster) Close() error                                    { return nil }
