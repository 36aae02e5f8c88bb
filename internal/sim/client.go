package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"tether/hub"
	"tether/internal/ledger"
)

// client is one user's device in one namespace, from its CONNECT to its end.
type client struct {
	w         *world
	n         int
	node      *node
	namespace string
	user      string
	wire      *wire
	rec       *ledger.Receiver
	asked     ledger.Moment // when it sent CONNECT

	answered, seen bool // guarded by the wire's mu; the hub has answered CONNECT, and it knows

	mu        sync.Mutex
	rng       *rand.Rand                // guarded by mu
	stays     map[string]*ledger.Stay   // guarded by mu; rooms that it is in or about to be
	gone      map[string]bool           // guarded by mu; rooms that it has left for certain
	moves     map[string]int            // guarded by mu; requests to join or leave a room that are not answered
	known     time.Time                 // guarded by mu; since when it knows that it is connected
	sid       string                    // guarded by mu; "" until it is connected
	moved     map[string]time.Time      // guarded by mu; when it last asked to leave a room
	greeted   int                       // guarded by mu
	kicked    bool                      // guarded by mu; has got DISCONNECT
	refused   bool                      // guarded by mu
	left      time.Time                 // guarded by mu; since when it leaves, by itself or with its connection
	many      bool                      // guarded by mu; is in many rooms
	expires   bool                      // guarded by mu; was given a time to go, which leaves the connection open
	quits     bool                      // guarded by mu; has left the namespace alone
	over      bool                      // guarded by mu; the connection has ended, and the hub knows
	overAt    time.Time                 // guarded by mu; since when
	questions map[string]func(k packet) // guarded by mu; by ID
	asks      int                       // guarded by mu; the number of its next question
	echoed    int                       // guarded by mu; the next answer that is due
	replies   map[int]time.Time         // guarded by mu; when it has answered the hub's questions, by number
	onConnect []func(c *client)         // guarded by mu
	pending   map[string]*ledger.Stay   // guarded by mu; that the answer to CONNECT makes sure
}

// auth is what a client says when it connects, and what the hub's hook does about it.
type auth struct {
	N      int           `json:"n"` // of the client
	User   string        `json:"user"`
	Rooms  []string      `json:"rooms,omitempty"`
	Refuse bool          `json:"refuse,omitempty"`
	Pause  time.Duration `json:"pause,omitempty"`  // before it registers
	Linger time.Duration `json:"linger,omitempty"` // after it has
	Emit   bool          `json:"emit,omitempty"`   // to itself, from within the hook
	Expire time.Duration `json:"expire,omitempty"` // from now on, on the node's wall clock
}

func (c *client) String() string {
	return fmt.Sprintf("client %d (user %.20q, %s)", c.n, c.user, c.namespace)
}

func (c *client) room(name string) string { return c.namespace + "," + name }

// connect joins a namespace over a connection.
func (w *world) connect(k *wire, namespace string, a auth) *client {
	c := &client{
		w: w, n: w.nextClient(), node: k.node, namespace: namespace, user: a.User, wire: k, rng: w.fork(),
		expires:   a.Expire != 0,
		stays:     make(map[string]*ledger.Stay),
		gone:      make(map[string]bool),
		moves:     make(map[string]int),
		moved:     make(map[string]time.Time),
		pending:   make(map[string]*ledger.Stay),
		questions: make(map[string]func(packet)),
		replies:   make(map[int]time.Time),
	}
	c.rec = w.book.Receiver(fmt.Sprintf("client %d, user %q", c.n, c.user), k.node.name)
	c.asked = w.book.Now()
	rooms := append([]string{userRoom(a.User), everyone}, a.Rooms...)
	for _, name := range rooms {
		stay := c.rec.Ask(c.room(name))
		c.stays[name], c.pending[name] = stay, stay
	}
	w.clients = append(w.clients, c)
	w.mu.Lock()
	w.rivals[c.room(c.user)] = append(w.rivals[c.room(c.user)], rival{c, time.Now()})
	w.mu.Unlock()
	k.mu.Lock()
	k.clients = append(k.clients, c)
	open := k.reason == ""
	k.mu.Unlock()
	if !open { // it has just been closed
		c.ended(hub.ReasonTransportClose)
		return c
	}
	a.N = c.n
	text, _ := json.Marshal(a)
	c.say("0", "", string(text))
	return c
}

// say sends a packet: its kind, its ID, its data, its attachments.
func (c *client) say(kind, id, data string, attachments ...[]byte) {
	c.wire.say(c.text(kind, id, data), attachments...)
}

func (c *client) text(kind, id, data string) string {
	if c.namespace != "/" {
		kind += c.namespace + ","
	}
	return kind + id + data
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
		c.w.refusal(c, k)
		c.leaveNow()
		c.rec.End()
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
	c.known = time.Now()
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
	case "ask":
		c.reply(k, args)
	case "probe": // its receipt is all that counts
	default:
		c.w.violate("%s got %s", c, k.data)
	}
}

// ask sends an event and calls then, once, with the answer.
func (c *client) ask(event, arg string, then func(k packet), attachments ...[]byte) {
	c.mu.Lock()
	if c.sid == "" || !c.left.IsZero() || c.kicked {
		c.mu.Unlock()
		return
	}
	id := strconv.Itoa(c.asks)
	c.asks++
	c.questions[id] = then
	kind, data := "2", fmt.Sprintf("[%q,%s]", event, arg)
	if len(attachments) > 0 {
		kind = "5" + strconv.Itoa(len(attachments)) + "-"
	}
	c.say(kind, id, data, attachments...) // in the order of the IDs
	c.mu.Unlock()
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
	then(k)
}

// leaveNow notes that the client means to leave from now on. It reports whether it did already.
func (c *client) leaveNow() (already bool) {
	c.mu.Lock()
	already = !c.left.IsZero()
	if !already {
		c.left = time.Now()
	}
	c.mu.Unlock()
	if !already {
		c.rec.Leave("*", c.w.book.Now())
	}
	return already
}

// hangUp ends the connection: properly, with DISCONNECT first, or as a lost network would.
func (c *client) hangUp(properly bool) {
	c.mu.Lock()
	connected := c.sid != "" && !c.kicked && c.left.IsZero()
	c.mu.Unlock()
	for _, o := range c.wire.all() {
		o.leaveNow()
	}
	if !properly {
		c.wire.breakOff(hub.ReasonTransportError)
		return
	}
	if connected {
		c.say("1", "", "")
	}
	c.w.jobs.Go(func() {
		pause(c.wire.latency(), c.wire.closed) // so that it may or may not be told
		if c.wire.pipe != nil {
			c.wire.breakOff(hub.ReasonTransportClose)
		} else {
			c.wire.Close(hub.ReasonTransportClose)
		}
	})
}

// quit leaves the namespace and keeps the connection.
func (c *client) quit() {
	c.mu.Lock()
	c.quits = true
	c.mu.Unlock()
	if !c.leaveNow() {
		c.wire.sayThen(c.text("1", "", ""), func() { c.wire.part(c) })
	}
}

// mayStayOpen reports whether its socket may go by itself, and leave the connection open.
func (c *client) mayStayOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quits || c.expires
}

// ended is called when the hub has been told that the connection has ended.
func (c *client) ended(reason hub.Reason) {
	c.rec.End()
	c.mu.Lock()
	if c.left.IsZero() {
		c.left = time.Now()
	}
	c.over = true
	if c.overAt.IsZero() {
		c.overAt = time.Now()
	}
	c.questions = make(map[string]func(packet))
	kicked, connected, quits := c.kicked, c.sid != "", c.quits
	c.mu.Unlock()
	if reason == hub.ReasonServerDisconnect && connected && !kicked && !c.wire.isBroken() && !quits {
		c.w.violate("%s was disconnected by the server without DISCONNECT", c)
	}
}

// hubKnows notes that the hub has been told of the end; the client may still have something to read.
func (c *client) hubKnows() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left.IsZero() {
		c.left = time.Now()
	}
	c.overAt = time.Now()
}

// alive reports whether the client is connected and means to stay.
func (c *client) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sid != "" && c.left.IsZero() && !c.kicked && c.wire.closedFor() == ""
}

// id is the client's socket ID, "" if it is not connected.
func (c *client) id() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sid
}
