package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"tether/broker"
)

const retryPause = 100 * time.Millisecond

// Serve is Run for a process that has nothing else to do with the broker: it runs the broker, and keeps the
// node's subjects subscribed. It calls up, which may be nil, once this node can ask. It returns nil when ctx
// is done, and an error if the broker ends before.
func (n *Node) Serve(ctx context.Context, up func()) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	running, end := context.WithCancel(context.WithoutCancel(ctx)) // the broker, until what the node ends with has been said
	defer end()
	lost := make(chan struct{}, 1)
	var wg, member sync.WaitGroup
	ended := make(chan error, 1)
	wg.Go(func() {
		defer stop()
		ended <- n.broker.Run(running, broker.Handler{
			Deliver: func(m broker.Message) { n.deliverOwn(m.Own()) },
			Lost:    func(broker.Gap) { give(lost) },
		})
	})
	if n.subscribe(inner) {
		n.Subscribed()
		wg.Go(func() {
			for {
				select {
				case <-inner.Done():
					return
				case <-lost:
					n.subscribe(inner)
				}
			}
		})
		member.Go(func() { n.Run(inner) })
		if up != nil {
			up()
		}
	}
	<-inner.Done()
	member.Wait()
	end()
	wg.Wait()
	err := <-ended
	if ctx.Err() == nil {
		return errors.Join(errors.New("cluster: the broker has ended"), err)
	}
	return nil
}

// subscribe tries until it succeeds, or ctx is done.
func (n *Node) subscribe(ctx context.Context) bool {
	for {
		errs := n.broker.Subscribe(ctx, n.Subjects()...)
		if !slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retryPause):
		}
	}
}

// deliverOwn takes a message with its head.
func (n *Node) deliverOwn(m broker.Message) {
	if head := len(n.o.Head); len(m.Data) >= head && string(m.Data[:head]) == string(n.o.Head) {
		n.Deliver(m.Data[head:])
	}
}
