package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"tether/broker"
	"tether/hub"
)

// ping emits to all users in one pipelined call, and prints who was there.
func ping(ctx context.Context, b broker.Broker, hello string, users []string, stdout io.Writer) error {
	// The list makes every other event an error: a typing mistake does not go out to nobody.
	emitter := hub.NewEmitter(b, hub.EmitterOptions{Events: []string{Ping.Name()}})

	rooms := make([]hub.Target, len(users))
	for i, user := range users {
		rooms[i] = hub.User(user)
	}
	receipts, err := Ping.EmitMany(ctx, emitter, rooms, PingPayload{Hello: hello, Sent: time.Now()})
	if err != nil {
		return err
	}

	for i, receipt := range receipts {
		fmt.Fprintf(stdout, "%s: %s\n", users[i], receipt)
		if receipt.Nobody() {
			mail(users[i], stdout)
		}
	}
	return nil
}

// mail is where an application reaches a user who is not there: nobody is there is certain.
func mail(user string, stdout io.Writer) { fmt.Fprintf(stdout, "%s: gets a mail instead\n", user) }
