package hubtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"tether/hub"
	"tether/internal/socketio"
)

// Event is an event that a client has got.
type Event struct {
	Name string

	client *Client
	args   []json.RawMessage
	id     uint64
	asks   bool
}

// Len is the number of arguments.
func (e *Event) Len() int { return len(e.args) }

// Decode decodes argument i into what v points to, and fails the test if that is not possible.
func (e *Event) Decode(i int, v any) {
	e.client.t.Helper()
	decode(e.client, "event "+e.String(), e.args, i, v)
}

func decode(c *Client, what string, args []json.RawMessage, i int, v any) {
	c.t.Helper()
	if i >= len(args) {
		c.t.Fatalf("hubtest: %s has no argument %d", what, i)
	}
	if err := json.Unmarshal(args[i], v); err != nil {
		c.t.Fatalf("hubtest: argument %d of %s: %v", i, what, err)
	}
}

// Answer answers an event of which the hub waits for the acknowledgement: see [hub.Socket.EmitAck].
func (e *Event) Answer(args ...any) {
	e.client.t.Helper()
	if !e.asks {
		e.client.t.Fatalf("hubtest: nobody waits for an answer to %s", e)
	}
	e.client.send(socketio.Packet{Type: socketio.Ack, ID: e.id, HasID: true}, e.Name, args)
}

// NoHandler answers as a client does that has no handler for the event, and says so: see [hub.ErrNoHandler].
func (e *Event) NoHandler() {
	e.client.t.Helper()
	e.Answer(nil, refusal{Message: "no handler for this event"})
}

// String is the event as it is shown in failures.
func (e *Event) String() string { return show(e.Name, e.args) }

// Expect waits for an event of this name with these arguments, takes it, and returns it. Other events stay
// where they are, whether they came before or after it. A want is compared with the argument after that has
// been decoded into the want's own type, as JSON; one that is a pointer is decoded into instead. Without wants
// any arguments will do.
func (c *Client) Expect(event string, wants ...any) *Event {
	c.t.Helper()
	var found *Event
	if !c.await(func() bool {
		i := c.findLocked(event, wants)
		if i >= 0 {
			found = c.inbox[i]
			c.inbox = slices.Delete(c.inbox, i, i+1)
		}
		return i >= 0
	}) {
		c.t.Fatalf("hubtest: no event %s came within %v%s\n%s", wanted(event, wants), Patience, c.whyEnded(), c.instead(event, wants))
	}
	return found
}

// Refute fails the test if an event of this name with these arguments has come and was not taken, or is on its
// way: in a bubble of testing/synctest that is known at once, elsewhere it waits for a moment.
func (c *Client) Refute(event string, wants ...any) {
	c.t.Helper()
	c.conn.node.cluster.settle()
	c.mu.Lock()
	i := c.findLocked(event, wants)
	var found *Event
	if i >= 0 {
		found = c.inbox[i]
	}
	c.mu.Unlock()
	if found != nil {
		c.t.Fatalf("hubtest: %s came, and was not to come", found)
	}
}

// RefuteAny fails the test if any event has come and was not taken, or is on its way.
func (c *Client) RefuteAny() {
	c.t.Helper()
	c.conn.node.cluster.settle()
	c.mu.Lock()
	left := len(c.inbox)
	c.mu.Unlock()
	if left > 0 {
		c.t.Fatalf("hubtest: nothing more was to come\n%s", c.instead("", nil))
	}
}

// Next waits for the next event, whatever it is, takes it, and returns it: for tests in which the order counts.
func (c *Client) Next() *Event {
	c.t.Helper()
	var next *Event
	if !c.await(func() bool {
		if len(c.inbox) == 0 {
			return false
		}
		next, c.inbox = c.inbox[0], c.inbox[1:]
		return true
	}) {
		c.t.Fatalf("hubtest: nothing came within %v%s", Patience, c.whyEnded())
	}
	return next
}

// ExpectEnd waits until the client is disconnected for this reason: by the server, by its own doing, or
// because its connection has ended.
func (c *Client) ExpectEnd(reason hub.Reason) {
	c.t.Helper()
	if !c.await(func() bool { return c.reason != "" }) {
		c.t.Fatalf("hubtest: the client is still connected after %v, and was to end: %s", Patience, reason)
	}
	if got := c.endedFor(); got != reason {
		c.t.Fatalf("hubtest: the client ended for another reason\n  want %s\n  got  %s", reason, got)
	}
}

// findLocked finds an event in the inbox.
func (c *Client) findLocked(event string, wants []any) int {
	return slices.IndexFunc(c.inbox, func(e *Event) bool {
		return e.Name == event && fit(wants, e.args)
	})
}

// instead says what came instead of an event.
func (c *Client) instead(event string, wants []any) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.inbox) == 0 {
		return "  nothing came"
	}
	const most = 20
	var b strings.Builder
	for i, e := range c.inbox {
		if i == most {
			fmt.Fprintf(&b, "  and %d more\n", len(c.inbox)-most)
			break
		}
		fmt.Fprintf(&b, "  came %s\n", e)
		if e.Name == event {
			b.WriteString(differences(wants, e.args))
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Answer is the acknowledgement of a call.
type Answer struct {
	client *Client
	event  string
	come   chan struct{}     // closed when it has come
	args   []json.RawMessage // written before that
}

// Len is the number of its values.
func (a *Answer) Len() int { return len(a.args) }

// Decode decodes value i into what v points to, and fails the test if that is not possible.
func (a *Answer) Decode(i int, v any) {
	a.client.t.Helper()
	decode(a.client, "answer "+a.String(), a.args, i, v)
}

// Expect fails the test unless these are the values of the answer. They are compared as the arguments of an
// event are: see [Client.Expect].
func (a *Answer) Expect(wants ...any) {
	a.client.t.Helper()
	if len(wants) == 0 && len(a.args) > 0 || !fit(wants, a.args) {
		a.client.t.Fatalf("hubtest: the answer to %q is another\n  want %s\n  got  %s\n%s",
			a.event, wanted("", wants), a, differences(wants, a.args))
	}
}

// ExpectRefusal fails the test unless the hub has refused the call with this message: see [hub.Refuse].
func (a *Answer) ExpectRefusal(message string, data ...any) {
	a.client.t.Helper()
	var got refusal
	if len(a.args) != 2 || string(a.args[0]) != "null" || json.Unmarshal(a.args[1], &got) != nil {
		a.client.t.Fatalf("hubtest: the call of %q was not refused with %q, but answered: %s", a.event, message, a)
	}
	if diff := got.differs(message, data); diff != "" {
		a.client.t.Fatalf("hubtest: the call of %q was refused in other words:\n%s", a.event, diff)
	}
}

// String is the answer as it is shown in failures.
func (a *Answer) String() string { return show("", a.args) }

// refusal is what the hub says to a client that it refuses.
type refusal struct {
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// differs says how the refusal differs from the one that is wanted; "" if it does not.
func (r refusal) differs(message string, data []any) string {
	if r.Message != message {
		return fmt.Sprintf("  want %s\n  got  %s", message, r.Message)
	}
	if len(data) == 0 {
		return ""
	}
	args := []json.RawMessage{r.Data}
	if r.Data == nil {
		args = nil
	}
	if fit(data, args) {
		return ""
	}
	return differences(data, args)
}
