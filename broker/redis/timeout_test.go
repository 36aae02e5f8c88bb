package redis_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

// The server is silent for a while. A call that its answer reaches within the limit succeeds; one whose
// answer does not come fails when the limit has passed, and not before.
func TestLimitsOnTheSilenceOfTheServer(t *testing.T) {
	long.Alone(t)
	const limit = time.Second
	s := backend.Redis(t)
	for name, c := range map[string]struct {
		options redis.Options
		call    func(b broker.Broker, subject string) error
	}{
		"publish": {redis.Options{PublishTimeout: limit}, func(b broker.Broker, subject string) error {
			_, err := b.Publish(context.Background(), broker.Message{Subject: subject, Data: []byte("x")})
			return err
		}},
		"subscribe": {redis.Options{SubscribeTimeout: limit}, func(b broker.Broker, subject string) error {
			return errors.Join(b.Subscribe(context.Background(), "other "+subject)...)
		}},
		"unsubscribe": {redis.Options{SubscribeTimeout: limit}, func(b broker.Broker, subject string) error {
			return errors.Join(b.Unsubscribe(context.Background(), subject)...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			long.Alone(t)
			proxy := faultproxy.New(t, s.Addr)
			client := goredis.NewClient(&goredis.Options{Addr: proxy.Addr()})
			defer client.Close()
			c.options.Logger = slog.New(slog.DiscardHandler)
			b, err := redis.New(client, c.options)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			up, ended := make(chan struct{}, 1), make(chan error, 1)
			go func() { // ended says that it is over
				ended <- b.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}, State: func(err error) {
					if err == nil {
						select {
						case up <- struct{}{}:
						default:
						}
					}
				}})
			}()
			defer func() {
				cancel()
				<-ended
				b.Close()
			}()
			<-up
			if err := b.Subscribe(ctx, "a", "b"); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Publish(ctx, broker.Message{Subject: "nobody"}); err != nil { // its connection is there
				t.Fatal(err)
			}

			proxy.Hold(faultproxy.ToClient)
			heal := time.AfterFunc(limit/4, proxy.Heal)
			defer heal.Stop()
			begin := time.Now()
			if err := c.call(b, "a"); err != nil || time.Since(begin) < limit/4 {
				t.Errorf("an answer within the limit: %v after %v", err, time.Since(begin))
			}

			proxy.Hold(faultproxy.ToClient)
			begin = time.Now()
			err = c.call(b, "b")
			if took := time.Since(begin); !errors.Is(err, broker.ErrUnavailable) || took < limit || took > long.Limit(limit+limit) {
				t.Errorf("no answer: %v after %v, want ErrUnavailable after %v", err, took, limit)
			}
			proxy.Heal()
		})
	}
}
