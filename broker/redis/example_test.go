package redis_test

import (
	"context"
	"fmt"
	"net/url"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/redis"
)

// A program that has a client already shares its settings, not its connections.
func ExampleNew() {
	client := goredis.NewFailoverClient(&goredis.FailoverOptions{
		MasterName:    "main",
		SentinelAddrs: []string{"sentinel-1:26379", "sentinel-2:26379"},
	})
	defer client.Close()

	b, err := redis.New(client, redis.Options{Lanes: 8})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	// Give b to a hub, or to an emitter.
}

func ExampleOpen() {
	u, err := url.Parse("rediss://user:password@redis.example:6379/0?client_name=worker")
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := redis.Open(context.Background(), u)
	if err != nil {
		fmt.Println(err) // the server does not answer, or refuses the password
		return
	}
	defer b.Close()
	reach, err := b.Publish(context.Background(), broker.Message{Subject: "s", Data: []byte("hello")})
	fmt.Println(reach[0].Nobody(), err)
}

// A Cluster and a master behind Sentinels are URLs with several hosts; broker.ParseURL takes them with and
// without ports.
func ExampleOpen_cluster() {
	u, err := broker.ParseURL("rediss+cluster://user:password@redis-1:6380,redis-2?ca=/etc/redis/ca.pem&prefix=shop:")
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := redis.Open(context.Background(), u)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
}
