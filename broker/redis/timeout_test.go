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

// connected subscribes "a" and "b" and publishes something, until both have succeeded: the connections are there.
func connected(t *testing.T, b broker.Broker) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		_, err := b.Publish(t.Context(), broker.Message{Subject: "nobody"})
		if err = errors.Join(append(b.Subscribe(t.Context(), "a", "b"), err)...); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

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
			connected(t, b)
			shared := long.Limit(limit) > limit
			for try := 1; ; try++ {
				proxy.Hold(faultproxy.ToClient)
				begin, healed := time.Now(), make(chan struct{})
				time.AfterFunc(limit/4, func() { proxy.Heal(); close(healed) })
				err := c.call(b, "a")
				took := time.Since(begin)
				<-healed
				if errors.Is(err, broker.ErrUnavailable) && shared && try < 10 { // the machine is late with it
					connected(t, b)
					continue
				}
				if err != nil || took < limit/4 {
					t.Errorf("an answer within the limit: %v after %v", err, took)
				}
				break
			}

			connected(t, b)
			proxy.Hold(faultproxy.ToClient)
			begin := time.Now()
			err = c.call(b, "b")
			if took := time.Since(begin); !errors.Is(err, broker.ErrUnavailable) || took < limit || took > long.Limit(limit+limit) {
				t.Errorf("no answer: %v after %v, want ErrUnavailable after %v", err, took, limit)
			}
			proxy.Heal()
		})
	}
}
