package nats_test

import (
	"context"
	"fmt"
	"log"
	"net/url"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/nats"
)

func ExampleOpen() {
	u, err := url.Parse("nats://localhost:4222,other:4222?prefix=shop")
	if err != nil {
		log.Fatal(err)
	}
	b, err := nats.Open(context.Background(), u)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()

	reach, err := b.Publish(context.Background(), broker.Message{Subject: "user:42", Data: []byte("hello")})
	if err != nil {
		log.Fatal(err)
	}
	if reach[0].Nobody() {
		fmt.Println("nobody is there")
	}
}

func ExampleNew() {
	options := append(nats.ConnectOptions(nil), natsio.Name("shop"))
	conn, err := natsio.Connect("nats://localhost:4222", options...)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	b, err := nats.New(conn, nats.Options{Prefix: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close() // and leaves conn open
}
