package event_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"tether/broker/memory"
	"tether/event"
	"tether/hub"
)

func ExampleNew() {
	type Ping struct {
		Hello string `json:"hello"`
	}
	ping := event.New[Ping]("/users/ping") // once, in a package that all import

	b := memory.NewBus().Broker()
	defer b.Close()
	e := hub.NewEmitter(b, hub.EmitterOptions{Events: []string{ping.Name()}})
	receipt, err := ping.Emit(context.Background(), e, hub.User("42"), Ping{"world"})
	fmt.Println(receipt, err)
	// Output: nobody is there <nil>
}

// A request to one client, and its answer.
func ExampleNewCall() {
	type Question struct {
		Text string `json:"text"`
	}
	ask := event.NewCall[Question, string]("question")

	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		log.Fatal(err)
	}
	h.Of("/").On("ask me", func(ctx context.Context, s *hub.Socket, _ *hub.Message) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		answer, err := ask.Call(ctx, s, Question{"what is your name?"})
		if err != nil {
			return err
		}
		return s.Emit("hello", answer)
	})
}
