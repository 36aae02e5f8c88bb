package hub

import (
	"log/slog"

	"tether/engine"
)

// inbox is what a connection has sent and nobody has handled yet. It exists while a goroutine works
// it off, one task after the other: the events of a connection are handled in order.
type inbox struct {
	tasks []task
	n     int           // of events that are waiting or being handled
	bytes int           // of these
	ready chan struct{} // closed when there is room again; nil unless the transport was told to wait
}

// task is an event, or a hook that comes after all events: OnDisconnect, and after that OnUnrecovered.
type task struct {
	socket  *Socket
	message *Message      // nil: OnDisconnect
	reason  Reason        // of OnDisconnect
	size    int           // of the event in bytes
	done    chan struct{} // closed when OnDisconnect has run; nil unless somebody may wait for that
	lapsed  bool          // OnUnrecovered
}

// enqueue adds a task, and a goroutine if there is none that works.
func (c *client) enqueue(t task) error {
	c.mu.Lock()
	in := c.inbox
	if in == nil {
		in = new(inbox)
	}
	if t.message != nil {
		limits := &c.hub.options.Limits
		if in.n >= 2*limits.Events || in.bytes > 2*limits.EventBytes {
			c.mu.Unlock()
			return engine.Because(ReasonTransportError, errFlood)
		}
		in.n++
		in.bytes += t.size
		if in.ready == nil && (in.n >= limits.Events || in.bytes >= limits.EventBytes) {
			in.ready = make(chan struct{})
		}
	}
	in.tasks = append(in.tasks, t)
	start := c.inbox == nil
	c.inbox = in
	c.mu.Unlock()
	if start && c.hub.work.Begin() {
		go c.dispatch(in) // Hub.Run waits for it
	}
	return nil
}

// Busy implements [engine.Receiver]: the channel is closed when there is room in the inbox again.
func (c *client) Busy() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inbox == nil {
		return nil
	}
	return c.inbox.ready
}

// dispatch works off the inbox, and ends with it.
func (c *client) dispatch(in *inbox) {
	defer c.hub.work.End()
	for {
		c.mu.Lock()
		tasks := in.tasks
		in.tasks = nil
		if len(tasks) == 0 {
			c.inbox = nil
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for i := range tasks {
			c.handle(&tasks[i])
			if tasks[i].message != nil {
				c.handled(in, tasks[i].size)
			}
			tasks[i] = task{} // what has been handled is not kept alive by what has not
		}
	}
}

// handled makes room for another event.
func (c *client) handled(in *inbox, size int) {
	c.mu.Lock()
	in.n--
	in.bytes -= size
	var ready chan struct{}
	limits := &c.hub.options.Limits
	if in.ready != nil && in.n <= limits.Events/2 && in.bytes <= limits.EventBytes/2 {
		ready, in.ready = in.ready, nil
	}
	c.mu.Unlock()
	if ready != nil {
		close(ready)
	}
}

// handle keeps its frame small, and so do dispatch and run: what handles an event begins with a stack of 2 KiB, and
// to grow that costs as much as all else (4 µs, BenchmarkEventFromClient).
func (c *client) handle(t *task) {
	switch {
	case t.lapsed:
		t.socket.ns.unrecovered(t.socket, t.reason)
	case t.message == nil:
		c.ended(t)
	default:
		c.hub.counters.events.Add(1)
		t.socket.ns.dispatch(c.hub.handlerContext, t.socket, t.message)
	}
}

// ended tells what a socket has ended with.
func (c *client) ended(t *task) {
	c.hub.counters.ended(t.reason)
	if c.hub.traces() {
		c.hub.log.Debug("disconnected", append(t.socket.who(), slog.String("reason", string(t.reason)))...)
	}
	t.socket.ns.disconnected(t.socket, t.reason)
	if t.done != nil {
		close(t.done)
	}
}
