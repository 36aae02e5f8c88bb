package memory_test

import (
	"context"
	"fmt"

	"tether/broker"
	"tether/broker/memory"
)

func ExampleBus() {
	bus := memory.NewBus()
	node, worker := bus.Broker(), bus.Broker()
	defer worker.Close()

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- node.Run(ctx, broker.Handler{Deliver: func(m broker.Message) {
			fmt.Printf("%s: %s\n", m.Subject, m.Data)
		}})
	}()
	if err := node.Subscribe(ctx, "user:42"); err != nil {
		fmt.Println(err)
	}

	reach, err := worker.Publish(ctx,
		broker.Message{Subject: "user:42", Data: []byte("hello")},
		broker.Message{Subject: "user:43", Data: []byte("hello")})
	fmt.Println(reach[0].Nodes, reach[1].Nobody(), err)

	cancel()
	fmt.Println(<-ended, node.Close())
	// Output:
	// user:42: hello
	// 1 true <nil>
	// <nil> <nil>
}
