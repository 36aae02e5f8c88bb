package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tether/broker"
)

// freezeLimit is how late a sweep may be. Drivers hear from their backend twice a second and drop what
// comes more than three seconds after the last time, so a longer freeze may have cost this node's users
// messages that were counted as taken; after four seconds others are told that its users are gone.
const freezeLimit = 2250 * time.Millisecond

const (
	sweepInterval = 100 * time.Millisecond
	freezeMargin  = time.Second           // by which the gap of a freeze begins before the last sweep
	drainStep     = 50 * time.Millisecond // between two batches of connections
	drainPace     = 10 * time.Millisecond // of the default window, for each connection
	drainGrace    = 5 * time.Second       // for connections to end, after the window
	withdrawLimit = 3 * time.Second       // for its subscriptions to end: by then a silent broker has been noticed
	welcomeLimit  = time.Second           // of it for sockets that are connecting
	drainPoll     = 10 * time.Millisecond // between two looks at whether they have

	maxDrainWindow = 10 * time.Second // by default
)

var errFrozen = errors.New("hub: this process was frozen")

// Run serves until ctx is done, then drains, and returns nil. It starts the broker's Run and returns
// its error if it ends early, or that of Options.OnStart. It may be called once.
//
// To drain is: Attach refuses; the connections are closed evenly over Options.DrainWindow, so that
// their clients do not come back all at once; the handlers that still run are waited for, at most for
// Options.HookTimeout; the subscriptions end. A connection is closed when the broker no longer counts this
// node for rooms that nobody else here is in, and when what it was counted for has arrived; that is waited
// for three seconds at most. Run returns no later than DrainWindow, HookTimeout and five seconds after ctx
// is done, with an error if handlers are still running then. With Options.Recovery it stays for up to eight
// seconds more, until other nodes have the sessions of its clients.
func (h *Hub) Run(ctx context.Context) error {
	if h.started.Swap(true) {
		return errors.New("hub: run called twice")
	}
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	ended := h.startLoops(inner, &wg)
	belonging, leave := context.WithCancel(inner)
	left := make(chan struct{})
	wg.Go(func() {
		defer close(left)
		select {
		case <-h.live:
			h.cluster.Run(belonging)
		case <-belonging.Done():
		}
	})

	err := h.start(ctx, ended)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-ended:
			err = h.brokerEnded(err)
		}
	}
	window, limit, linger := h.drainWindow(), withdrawLimit, h.lingers
	if err != nil {
		window, limit, linger = 0, 0, 0
	}
	h.draining.Store(true)
	h.cluster.Announce()
	h.drain(window, limit)
	h.linger(min(linger, h.options.Recovery.Window))
	h.endParked()
	patience, cancel := context.WithTimeout(inner, h.options.HookTimeout)
	h.work.Close()
	if waited := h.work.WaitFor(patience); waited != nil && err == nil {
		err = fmt.Errorf("hub: %d handlers still run %v after the last connection", h.work.Len(), h.options.HookTimeout)
	}
	cancel()
	h.endHandlers()
	leave()
	<-left // the others have been told
	h.retire(err)
	stop()
	wg.Wait()
	gone := ErrNotRunning
	h.state.Store(&gone)
	return err
}

// startLoops starts what runs as long as the hub does. It returns a channel that has the broker's end.
func (h *Hub) startLoops(ctx context.Context, wg *sync.WaitGroup) <-chan error {
	ended := make(chan error, 1)
	wg.Go(func() {
		ended <- h.broker.Run(ctx, broker.Handler{Deliver: h.deliver, Gap: h.gap, Lost: h.interest.drop, State: h.setState})
	})
	wg.Go(func() { h.interest.run(ctx) })
	wg.Go(func() { h.sweeper(ctx) })
	if h.options.Recovery.On {
		wg.Go(func() { h.forwarder(ctx) })
	}
	if h.kept != nil {
		wg.Go(func() { h.recorder(ctx) })
	}
	return ended
}

func (h *Hub) brokerEnded(err error) error {
	if err == nil {
		err = broker.ErrClosed
	}
	return fmt.Errorf("hub: broker ended: %w", err)
}

// start returns when the node can be reached and OnStart has returned. It returns nil too when ctx is
// done.
func (h *Hub) start(ctx context.Context, ended <-chan error) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	live := make(chan struct{})
	go func() { // ends with waiting
		defer close(live)
		for _, m := range h.own {
			for h.interest.wait(waiting, m) != nil && waiting.Err() == nil {
				// Refused: the reconciler has said so, and tries again.
			}
		}
	}()
	select {
	case <-live:
	case end := <-ended:
		cancel()
		<-live
		return h.brokerEnded(end)
	}
	if ctx.Err() != nil {
		return nil
	}
	h.cluster.Subscribed()
	close(h.live)
	if h.options.OnStart == nil {
		return nil
	}
	err := func() (err error) {
		defer recoverInto(&err)
		return h.options.OnStart(ctx, h)
	}()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("hub: start: %w", err)
	}
	return nil
}

func (h *Hub) setState(err error) {
	if err != nil {
		err = fmt.Errorf("hub: %w", err)
		h.log.Error("broker does not answer", "error", err)
	} else {
		h.log.Info("broker answers")
	}
	h.state.Store(&err)
}

func (h *Hub) gap(g broker.Gap) {
	h.counters.gaps.Add(1)
	subjects := any("all")
	if g.Subjects != nil {
		subjects = len(g.Subjects)
	}
	h.log.Warn("messages may have been missed", "from", g.From, "to", g.To, "subjects", subjects, "cause", g.Cause)
	h.cutSessions(g.From, g.Subjects)
	if h.options.OnGap != nil {
		h.options.OnGap(g)
	}
}

// sweeper looks at all deadlines, and notices when this process was frozen: by then others have been
// told that its users are gone, and the users have missed what came meanwhile.
func (h *Hub) sweeper(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		h.tick(last, now)
		last = now
	}
}

func (h *Hub) tick(last, now time.Time) {
	if late := now.Sub(last) - sweepInterval; late > freezeLimit {
		clients := h.clients.all()
		h.log.Error("this process was frozen; its connections are dropped", "for", late, "connections", len(clients))
		// What was published meanwhile may have missed them, and the broker finds nothing missing once
		// they are gone. A little of what was published before had not been read yet.
		h.gap(broker.Gap{From: last.Add(-freezeMargin), To: now, Cause: errFrozen})
		for _, c := range clients {
			c.first.conn.Close(ReasonServerClose)
		}
	}
	h.sweep(now)
}

// drainWindow is Options.DrainWindow, or its default for as many connections as there are.
func (h *Hub) drainWindow() time.Duration {
	if h.options.DrainWindow != 0 {
		return h.options.DrainWindow
	}
	return min(time.Duration(h.clients.len())*drainPace, maxDrainWindow)
}

// drain closes the connections over the window, and waits until they have ended. Their subscriptions may
// take limit to end before they do.
func (h *Hub) drain(window, limit time.Duration) {
	clients := h.clients.all()
	h.log.Info("draining", "connections", len(clients), "window", max(window, 0))
	ticker := time.NewTicker(drainStep)
	defer ticker.Stop()
	begin := time.Now()
	var leaving []leaver
	for begun := 0; begun < len(clients) || len(leaving) > 0; {
		due := len(clients)
		if elapsed := time.Since(begin) + drainStep; elapsed < window {
			due = int(float64(len(clients)) * float64(elapsed) / float64(window))
		}
		for ; begun < due; begun++ {
			leaving = append(leaving, leaver{clients[begun], time.Now()})
			if limit > 0 {
				clients[begun].withdraw(false)
			}
		}
		leaving = closeWithdrawn(leaving, limit)
		if h.clients.len() == 0 { // the others have gone by themselves
			return
		}
		if due == len(clients) {
			ticker.Reset(drainPoll)
		}
		if begun < len(clients) || len(leaving) > 0 {
			<-ticker.C
		}
	}
	clients = nil
	ticker.Reset(drainPoll)
	for end := begin.Add(window + drainGrace); time.Now().Before(end); <-ticker.C {
		left := h.clients.all()
		if len(left) == 0 {
			return
		}
		for _, c := range left { // among them what was being attached when the drain began
			c.first.conn.Close(ReasonShutdown)
		}
	}
	h.log.Error("connections did not end", "connections", h.clients.len())
}
