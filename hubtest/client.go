package hubtest

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/socketio"
)

// maxInbox is how many events may wait until the test takes them.
const maxInbox = 1 << 16

// Client is a client in one namespace, as a page with socket.io-client is. It keeps what comes until the test
// takes it.
type Client struct {
	t         testing.TB
	conn      *conn // of the test's goroutine
	namespace string
	auth      any
	answer    chan packet // to CONNECT; one

	mu      sync.Mutex
	id      string             // guarded by mu; of the socket, "" until it is connected
	inbox   []*Event           // guarded by mu; what has come and was not taken
	answers map[uint64]*Answer // guarded by mu; that are awaited
	asked   uint64             // guarded by mu; the ID of the next question
	reason  hub.Reason         // guarded by mu; why it has ended, "" until then
	session session            // guarded by mu; of a client that may come back
	news    chan struct{}      // guarded by mu; closed and replaced when something above changes
}

// join sends CONNECT for a namespace.
func (k *conn) join(namespace string, auth any) *Client {
	t := k.node.cluster.t
	t.Helper()
	if !strings.HasPrefix(namespace, "/") {
		namespace = "/" + namespace
	}
	c := &Client{
		t: t, conn: k, namespace: namespace, auth: auth,
		answer: make(chan packet, 1), answers: make(map[uint64]*Answer), news: make(chan struct{}),
	}
	c.open(k, auth)
	return c
}

// open sends CONNECT on a connection.
func (c *Client) open(k *conn, auth any) {
	c.t.Helper()
	k.mu.Lock()
	k.clients[c.namespace] = c
	k.mu.Unlock()
	text := string(socketio.AppendHeader(nil, socketio.Packet{Type: socketio.Connect, Namespace: c.namespace}))
	if auth != nil {
		data, err := json.Marshal(auth)
		if err != nil {
			c.t.Fatalf("hubtest: auth: %v", err)
		}
		text += string(data)
	}
	k.say(text)
}

// connected returns c once the hub has let it in.
func (c *Client) connected() *Client {
	c.t.Helper()
	in, ended := c.awaitAnswer()
	switch {
	case ended != "":
		c.t.Fatalf("hubtest: the connection ended while the client connected: %s", ended)
	case in.Type == socketio.ConnectError:
		c.t.Fatalf("hubtest: the client was refused: %s", in.Data)
	}
	return c
}

// awaitAnswer is the answer to CONNECT, or why there is none.
func (c *Client) awaitAnswer() (in packet, ended hub.Reason) {
	c.t.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case in = <-c.answer:
		return in, ""
	case <-c.conn.ended:
	case <-timer.C:
		c.t.Fatalf("hubtest: CONNECT was not answered within %v: does a hook wait?", Patience)
	}
	select {
	case in = <-c.answer:
		return in, ""
	default:
		return in, c.endedFor()
	}
}

// refused fails the test unless the hub has refused c in these words.
func (c *Client) refused(message string, data []any) {
	c.t.Helper()
	in, ended := c.awaitAnswer()
	var got refusal
	switch {
	case ended != "":
		c.t.Fatalf("hubtest: the connection ended (%s), and the client was to be refused with %q", ended, message)
	case in.Type != socketio.ConnectError:
		c.t.Fatalf("hubtest: the client was let in, and was to be refused with %q", message)
	case json.Unmarshal(in.Data, &got) != nil:
		c.t.Fatalf("hubtest: the refusal is %s", in.Data)
	}
	if diff := got.differs(message, data); diff != "" {
		c.t.Fatalf("hubtest: the client was refused in other words:\n%s", diff)
	}
}

// take takes what the hub has sent. The lock of the connection is held.
func (c *Client) take(in packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch in.Type {
	case socketio.Connect:
		var open struct{ Sid, Pid string }
		json.Unmarshal(in.Data, &open)
		c.id = open.Sid
		c.session.connected(open.Pid)
		c.answer <- in
	case socketio.ConnectError:
		c.answer <- in
	case socketio.Disconnect:
		c.reason = hub.ReasonServerDisconnect
	case socketio.Event, socketio.BinaryEvent:
		if len(c.inbox) == maxInbox {
			c.t.Errorf("hubtest: more than %d events wait for the test to take them", maxInbox)
			return
		}
		if !in.HasID {
			in.args = c.session.position(in.args)
		}
		c.inbox = append(c.inbox, &Event{Name: string(in.Event), client: c, args: in.args, id: in.ID, asks: in.HasID})
	case socketio.Ack, socketio.BinaryAck:
		if a := c.answers[in.ID]; a != nil {
			delete(c.answers, in.ID)
			a.args = in.args
			close(a.come)
		}
	}
	c.changeLocked()
}

func (c *Client) changeLocked() {
	close(c.news)
	c.news = make(chan struct{})
}

// end notes that the connection has ended.
func (c *Client) end(reason hub.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == "" {
		c.reason = reason
	}
	c.changeLocked()
}

func (c *Client) endedFor() hub.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// await returns once ready, which is called with the lock held, reports true. It gives up after Patience.
func (c *Client) await(ready func() bool) bool {
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	for {
		c.mu.Lock()
		ok, news := ready(), c.news
		c.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-news:
		case <-timer.C:
			return false
		}
	}
}

// ID is the ID of the client's socket: see [hub.SocketID].
func (c *Client) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// Of joins another namespace over the same connection, as one page does. It returns when the client knows that
// it is connected, and fails the test if it is refused.
func (c *Client) Of(namespace string, auth any) *Client {
	c.t.Helper()
	return c.conn.join(namespace, auth).connected()
}

// Emit emits an event to the hub, and wants no answer. It returns when the hub has taken the event, perhaps
// before a handler has. An argument that is a []byte, and a [hub.Binary] anywhere, is a binary attachment.
func (c *Client) Emit(event string, args ...any) {
	c.t.Helper()
	c.send(socketio.Packet{Type: socketio.Event}, event, args)
}

// Call emits an event and waits for its acknowledgement.
func (c *Client) Call(event string, args ...any) *Answer {
	c.t.Helper()
	a := &Answer{client: c, event: event, come: make(chan struct{})}
	c.mu.Lock()
	id := c.asked
	c.asked++
	c.answers[id] = a
	c.mu.Unlock()
	c.send(socketio.Packet{Type: socketio.Event, ID: id, HasID: true}, event, args)
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case <-a.come:
		return a
	case <-c.conn.ended:
	case <-timer.C:
	}
	select {
	case <-a.come:
	default:
		c.t.Fatalf("hubtest: the call of %q was not answered within %v%s", event, Patience, c.whyEnded())
	}
	return a
}

func (c *Client) whyEnded() string {
	if reason := c.endedFor(); reason != "" {
		return "; the client has ended: " + string(reason)
	}
	return ""
}

func (c *Client) send(head socketio.Packet, event string, args []any) {
	c.t.Helper()
	head.Namespace = c.namespace
	text, attachments, err := encode(head, event, args)
	if err != nil {
		c.t.Fatalf("hubtest: %s of %q: %v", strings.ToLower(head.Type.String()), event, err)
	}
	if reason := c.endedFor(); reason != "" {
		c.t.Fatalf("hubtest: the client cannot emit %q: it has ended: %s", event, reason)
	}
	c.conn.say(text, attachments...)
}

// Disconnect leaves the namespace politely, as socket.disconnect() does. The hub sees
// [hub.ReasonClientDisconnect].
func (c *Client) Disconnect() {
	c.conn.say(string(socketio.AppendHeader(nil, socketio.Packet{Type: socketio.Disconnect, Namespace: c.namespace})))
	c.end(hub.ReasonClientDisconnect)
	c.conn.leave(c)
}

// Close closes the connection, as a page that is closed does. The hub sees [hub.ReasonTransportClose].
func (c *Client) Close() {
	c.conn.Close(hub.ReasonTransportClose)
	<-c.conn.ended
}

// Vanish loses the network: nothing gets through in either direction, and nobody is told. The hub sees
// [hub.ReasonPingTimeout] when the heartbeat fails, 45 seconds later.
func (c *Client) Vanish() {
	c.conn.node.cluster.settle()
	c.conn.vanish()
}

// StopReading lets what comes wait in the queue of the connection, until ReadAgain or the end. What happens
// when it is full is what package transport does, and the event's policy says: see [hub.Overflow].
func (c *Client) StopReading() {
	c.conn.node.cluster.settle() // what was emitted before has come
	c.conn.stopReading()
}

// ReadAgain ends StopReading: the client gets what has come meanwhile.
func (c *Client) ReadAgain() {
	c.conn.node.cluster.settle()
	c.conn.readAgain()
}
