package redis

import (
	"context"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/internal/backend"
	"tether/internal/faultproxy"
)

// A process that publishes now and then lets its connections go, and finds them again; that is no failure.
func TestAPublisherThatRestsHoldsNoConnectionAndStaysExact(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--maxclients", "1000")
	proxy := faultproxy.New(t, s.Addr)
	client := goredis.NewClient(&goredis.Options{Addr: proxy.Addr()})
	defer client.Close()
	d := newDriver(target{opts: client.Options()}, Options{})
	defer d.Close()
	d.topology.(fixed).srv.keeper.restTime = lookTime / 2
	for range 3 {
		r, err := d.Publish(context.Background(), broker.Message{Subject: "nobody"})
		if err != nil || r[0] != (broker.Receipt{}) {
			t.Errorf("got %v, %v", r, err)
		}
		for begin := time.Now(); proxy.Links() > 0; <-time.After(5 * time.Millisecond) {
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("%d connections are held", proxy.Links())
			}
		}
	}
}
