package redis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
)

const childVariable = "TETHER_REDIS_TEST_CHILD"

// child is a node in a process of its own, for a test that freezes it: it prints what it is told.
func child(addr string) {
	client := goredis.NewClient(&goredis.Options{Addr: addr})
	b, err := newBroker(client)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var mu sync.Mutex
	say := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(words...)
	}
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n') // the parent has gone, or wants an end
		cancel()
	}()
	subscribed := make(chan error, 1)
	go func() {
		subscribed <- errors.Join(b.Subscribe(ctx, "s")...)
		say("subscribed")
	}()
	err = b.Run(ctx, broker.Handler{
		Deliver: func(m broker.Message) { say("got", string(m.Data), time.Now().UnixNano()) },
		Gap:     func(g broker.Gap) { say("gap", g.From.UnixNano(), g.To.UnixNano()) },
	})
	err = errors.Join(err, <-subscribed, b.Close(), client.Close())
	say("ended", err)
}
