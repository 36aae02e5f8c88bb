package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"tether/hub"
	"tether/internal/ledger"
)

// client is one connection of a user's device, in one namespace, for as long as it lasts.
type client struct {
	w         *world
	n         int
	node      *node
	namespace string
	user      string
	wire      *wire
	hc        *hub.Client
	rec       *ledger.Receiver
	done      chan struct{} // closed when it has ended

	hesitation time.Duration // of the hub's goroutine, before the answer to CONNECT

	saying sync.Mutex // held while something is said, so that it is said in order

	mu        sync.Mutex
	rng       *rand.Rand               // guarded by mu
	stays     map[string]*ledger.Stay  // guarded by mu; rooms that it is in or about to be
	known     ledger.Moment            // guarded by mu; since when it knows that it is connected
	sid       string                   // guarded by mu; "" until it is connected
	moved     map[string]time.Time     // guarded by mu; when it last asked to leave a room
	stall     time.Duration            // guarded by mu; that it will not read for
	greeted   int                      // guarded by mu
	kicked    bool                     // guarded by mu; has got DISCONNECT
	refused   bool                     // guarded by mu
	left      bool                     // guarded by mu; has said or decided that it leaves
	asked     int                      // guarded by mu; the number of its next question
	echoed    int                      // guarded by mu; the next answer that is due
	questions map[string]func(ok bool) // guarded by mu; by ID
	onConnect []func(c *client)        // guarded by mu
	pending   map[string]*ledger.Stay  // guarded by mu; that the answer to CONNECT makes sure
}

// auth is what a client says when it connects, and what the hub's hook does about it.
type auth struct {
	User   string        `json:"user"`
	Rooms  []string      `json:"rooms,omitempty"`
	Refuse bool          `json:"refuse,omitempty"`
	Pause  time.Duration `json:"pause,omitempty"`  // before it registers
	Linger time.Duration `json:"linger,omitempty"` // after it has
	Emit   bool          `json:"emit,omitempty"`   // to itself, from within the hook
}

func (c *client) String() string {
	return fmt.Sprintf("client %d (user %q, %s)", c.n, c.user, c.namespace)
}

func (c *client) room(name string) string { return c.namespace + "," + name }

// connect dials a node. It reports false when the node does not take connections.
func (w *world) connect(n *node, namespace string, a auth, rng *rand.Rand) *client {
	c := &client{
		w: w, n: w.nextClient(), node: n, namespace: namespace, user: a.User,
		done: make(chan struct{}), rng: rng,
		hesitation: time.Duration(rng.IntN(3)) * 5 * time.Millisecond / 2,
		stays:      make(map[string]*ledger.Stay),
		moved:      make(map[string]time.Time),
		pending:    make(map[string]*ledger.Stay),
		questions:  make(map[string]func(bool)),
	}
	c.wire = &wire{client: c, queue: make(chan sent, wireSize), closed: make(chan struct{})}
	c.rec = w.book.Receiver(fmt.Sprintf("client %d, user %q", c.n, c.user), n.name)
	var conn hub.Conn = c.wire
	if w.plan.Conn != nil {
		conn = w.plan.Conn(conn)
	}
	r, _ := http.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket", nil)
	r.RemoteAddr = "127.0.0.1:1"
	hc, err := n.hub.Attach(conn, r)
	if err != nil {
		if !n.ending() {
			w.violate("%s: Attach to %s: %v", c, n.name, err)
		}
		return nil
	}
	c.hc = hc
	rooms := append([]string{string(hub.User(a.User)), string(hub.Everyone)}, a.Rooms...)
	for _, name := range rooms {
		stay := c.rec.Ask(c.room(name))
		c.stays[name], c.pending[name] = stay, stay
	}
	w.clients = append(w.clients, c)
	w.readers.Go(c.wire.read)
	text, _ := json.Marshal(a)
	c.saying.Lock()
	defer c.saying.Unlock()
	c.say("0", "", text)
	return c
}

// say sends a packet: its kind, its ID, its data. The caller holds saying.
func (c *client) say(kind, id string, data []byte) {
	text := kind
	if c.namespace != "/" {
		text += c.namespace + ","
	}
	text += id
	if err := c.hc.Text(append([]byte(text), data...)); err != nil {
		if c.wire.closedFor() == "" {
			c.w.violate("%s: %s was refused: %v", c, text, err)
		}
		c.wire.Close(hub.ReasonOf(err))
	}
}

// latency is how long the client takes for the next packet.
func (c *client) latency() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.rng.IntN(4) {
	case 0, 1:
		return 0
	case 2:
		return time.Duration(c.rng.Int64N(int64(time.Millisecond)))
	}
	if d := c.stall; d > 0 {
		c.stall = 0
		return d
	}
	return time.Duration(c.rng.Int64N(int64(4 * time.Millisecond)))
}

// took handles one packet.
func (c *client) took(k packet) {
	if k.namespace != c.namespace {
		c.w.violate("%s got a packet of %s", c, k.namespace)
		return
	}
	c.mu.Lock()
	gone, connected := c.kicked || c.refused, c.sid != ""
	c.mu.Unlock()
	if gone {
		return // it was on its way; what is too late is seen where it is sent
	}
	if !connected && k.kind != '0' && k.kind != '4' {
		c.w.violate("%s got a packet of kind %c before it was connected: %s", c, k.kind, k.data)
		return
	}
	switch k.kind {
	case '0':
		c.connected(k)
	case '1':
		c.mu.Lock()
		c.kicked = true
		c.mu.Unlock()
	case '2', '5':
		c.event(k)
	case '3', '6':
		c.answer(k)
	case '4':
		c.mu.Lock()
		c.refused = true
		c.mu.Unlock()
		c.wire.Close(hub.ReasonTransportClose)
	default:
		c.w.violate("%s got a packet of kind %c", c, k.kind)
	}
}

// connected handles the answer to CONNECT: from this moment on the client can be reached.
func (c *client) connected(k packet) {
	var answer struct{ Sid string }
	if json.Unmarshal(k.data, &answer) != nil || len(answer.Sid) != 20 {
		c.w.violate("%s: answer to CONNECT is %s", c, k.data)
		return
	}
	own := c.rec.Own(c.room(answer.Sid))
	own.Sure()
	c.mu.Lock()
	again := c.sid != ""
	c.sid = answer.Sid
	c.known = c.w.book.Now()
	pending, then := c.pending, c.onConnect
	c.pending, c.onConnect = nil, nil
	c.mu.Unlock()
	if again {
		c.w.violate("%s: CONNECT was answered twice", c)
	}
	for _, s := range pending {
		s.Sure()
	}
	for _, f := range then {
		f(c)
	}
}

// then calls f when the client knows that it is connected, in that instant, or now.
func (c *client) then(f func(*client)) {
	c.mu.Lock()
	if c.pending != nil {
		c.onConnect = append(c.onConnect, f)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	f(c)
}

func (c *client) event(k packet) {
	var args []json.RawMessage
	var name string
	if json.Unmarshal(k.data, &args) != nil || len(args) == 0 || json.Unmarshal(args[0], &name) != nil {
		c.w.violate("%s got an event that is none: %s", c, k.data)
		return
	}
	switch name {
	case "n":
		var m ledger.Mark
		if len(args) < 2 || json.Unmarshal(args[1], &m) != nil {
			c.w.violate("%s got an event without a mark: %s", c, k.data)
			return
		}
		if len(args) > 2 { // the mark again, as an attachment
			if text, _ := json.Marshal(m); len(k.binary) != 1 || !bytes.Equal(k.binary[0], text) {
				c.w.violate("%s got %s with the attachment of another: %q", c, k.data, k.binary)
			}
		}
		c.rec.Got(m)
	case "/ops/connection-success":
		c.mu.Lock()
		c.greeted++
		many := c.greeted > 1
		c.mu.Unlock()
		if many {
			c.w.violate("%s was greeted twice", c)
		}
	case "mine":
		var user string
		if len(args) != 2 || json.Unmarshal(args[1], &user) != nil || user != c.user {
			c.w.violate("%s got an event that was for another socket: %s", c, k.data)
		}
	default:
		c.w.violate("%s got %s", c, k.data)
	}
}

// ask sends an event and calls then, once, with the answer, or when the connection has ended without.
func (c *client) ask(event, arg string, then func(ok bool)) {
	c.saying.Lock()
	defer c.saying.Unlock()
	c.mu.Lock()
	if c.sid == "" || c.left || c.kicked {
		c.mu.Unlock()
		return
	}
	id := strconv.Itoa(c.asked)
	c.asked++
	c.questions[id] = then
	data, _ := json.Marshal([]string{event, arg})
	c.mu.Unlock()
	c.say("2", id, data)
}

func (c *client) answer(k packet) {
	c.mu.Lock()
	then := c.questions[k.id]
	delete(c.questions, k.id)
	due := strconv.Itoa(c.echoed)
	c.echoed++
	c.mu.Unlock()
	if then == nil || k.id != due {
		c.w.violate("%s got the answer %s, %s was due", c, k.id, due)
		return
	}
	then(string(k.data) == `["ok"]`)
}

// join asks to be in a room, leave to leave it. Both are events that a handler of the hub answers.
func (c *client) join(name string) {
	c.mu.Lock()
	if c.sid == "" || c.stays[name] != nil || c.left || c.kicked {
		c.mu.Unlock()
		return
	}
	stay := c.rec.Ask(c.room(name))
	c.stays[name] = stay
	c.mu.Unlock()
	c.ask("join", name, func(ok bool) {
		if ok {
			stay.Sure()
		}
	})
}

func (c *client) leave(name string) {
	c.mu.Lock()
	stay := c.stays[name]
	if c.sid == "" || stay == nil || c.left || c.kicked {
		c.mu.Unlock()
		return
	}
	delete(c.stays, name)
	c.moved[name] = time.Now()
	stay.Leave()
	c.mu.Unlock()
	c.ask("leave", name, func(bool) { stay.Gone() })
}

// rooms are those that the client is in, or about to be, beside the fixed ones.
func (c *client) rooms() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.stays {
		if name != string(hub.Everyone) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// hangUp ends the connection: properly, with DISCONNECT first, or as a lost network would.
func (c *client) hangUp(properly bool) {
	c.mu.Lock()
	was := c.left
	c.left = true
	connected := c.sid != "" && !c.kicked
	c.mu.Unlock()
	if was {
		return
	}
	c.rec.Leave("*", c.w.book.Now())
	if properly && connected {
		c.saying.Lock()
		c.say("1", "", nil)
		c.saying.Unlock()
	}
	if properly {
		c.wire.Close(hub.ReasonTransportClose)
	} else {
		c.wire.breakOff(hub.ReasonTransportError)
	}
}

// ended is called when the hub has been told that the connection has ended.
func (c *client) ended() {
	c.rec.End()
	c.mu.Lock()
	c.left = true
	c.questions = make(map[string]func(bool))
	kicked, connected := c.kicked, c.sid != ""
	c.mu.Unlock()
	reason := c.wire.closedFor()
	if reason == hub.ReasonServerDisconnect && connected && !kicked && !c.wire.isBroken() {
		c.w.violate("%s was disconnected by the server without DISCONNECT", c)
	}
	close(c.done)
}

// alive reports whether the client is connected and means to stay.
func (c *client) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sid != "" && !c.left && !c.kicked && c.wire.closedFor() == ""
}

// stayed reports whether the client has not asked to leave a room since a moment.
func (c *client) stayed(room string, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved[room].Before(since)
}

// id is the client's socket ID, "" if it is not connected.
func (c *client) id() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sid
}
