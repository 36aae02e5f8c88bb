package floor

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"tether/bench/internal/emit"
)

// followNATS has one channel for all subscriptions, the quickest that nats.go offers.
func followNATS(ctx context.Context, broker string, subjects []string, ready func(), deliver func([]byte) error) error {
	c, err := nats.Connect(broker, nats.NoReconnect())
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	defer c.Close()
	failed := make(chan error, 1)
	c.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { report(failed, err) })
	in := make(chan *nats.Msg, 1<<18)
	for _, s := range subjects {
		if _, err := c.ChanSubscribe(s, in); err != nil {
			return fmt.Errorf("floor: subscribe: %w", err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("floor: subscribe: %w", err)
	}
	ready()
	for {
		select {
		case m := <-in:
			if err := deliver(m.Data); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("floor: subscription: %w", err)
		}
	}
}

// report keeps the first error.
func report(failed chan<- error, err error) {
	select {
	case failed <- err:
	default:
	}
}

// dialNATS returns what publishes; nats.go gathers messages for a write by itself.
func dialNATS(broker string, subjects []string) (emit.Sender, error) {
	c, err := nats.Connect(broker, nats.NoReconnect())
	if err != nil {
		return emit.Sender{}, fmt.Errorf("floor: %w", err)
	}
	return emit.Sender{One: func(_ context.Context, user uint32, payload []byte) (int, error) {
		return -1, c.Publish(subjects[user], payload)
	}}, nil
}
