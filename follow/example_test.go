package follow_test

import (
	"context"
	"fmt"
	"log/slog"

	"tether/broker/memory"
	"tether/follow"
	"tether/hub"
)

// A program that emits asks what became of an event.
func Example() {
	f, err := follow.New(follow.Options{Keys: []string{"one of the operators' keys"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	up := make(chan struct{})
	h, err := hub.New(memory.NewBus().Broker(), hub.Options{
		Node: "alpha", Tracers: []hub.Tracer{f},
		Logger:  slog.New(slog.DiscardHandler),
		OnStart: func(context.Context, *hub.Hub) error { close(up); return nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	f.Serve(h)
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }() // waited for below
	defer func() {
		stop()
		<-ended
	}()
	<-up

	ctx, ids := follow.Context(context.Background())
	if _, err := h.Emitter().Emit(ctx, hub.User("42"), "/users/ping"); err != nil {
		fmt.Println(err)
	}
	report, err := f.Ask(context.Background(), h.Emitter(), follow.Query{IDs: ids()})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range report.Events {
		fmt.Println(e.Name, "to", e.To, "by", e.By, e.Receipts)
	}
	// Output: /users/ping to [user:42] by alpha [nobody is there]
}
