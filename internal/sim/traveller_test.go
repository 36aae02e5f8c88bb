package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"tether/hub"
)

// traveller is a client that comes back, as the stock client does, to any node.
type traveller struct {
	w         *recoveringWorld
	n         int
	user      string
	namespace string
	again     bool       // the hooks register it when it comes back too
	rng       *rand.Rand // owned by its goroutine

	mu       sync.Mutex
	link     *link               // guarded by mu
	pid      string              // guarded by mu
	offset   string              // guarded by mu
	current  *account            // guarded by mu; nil before the first answer
	began    map[string]*account // guarded by mu; sessions that a hook has seen, by ID
	sessions int                 // guarded by mu
	tries    []*recoveringNode   // guarded by mu; since the last answer
}

// credentials are what a client says when it connects.
type credentials struct {
	Client   int           `json:"client"`
	User     string        `json:"user"`
	Rooms    []string      `json:"rooms,omitempty"`
	Pause    time.Duration `json:"pause,omitempty"`
	Again    bool          `json:"again,omitempty"`
	Recovery bool          `json:"recovery"`
	PID      string        `json:"pid,omitempty"`
	Offset   string        `json:"offset,omitempty"`
}

func (c *credentials) of(w *recoveringWorld) *traveller {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.travellers[c.Client]
}

// travel adds a client.
func (w *recoveringWorld) travel() {
	t := &traveller{
		w: w, n: len(w.travellers), user: strconv.Itoa(w.rng.IntN(4)), namespace: []string{"/", "/", "/b"}[w.rng.IntN(3)],
		again: w.rng.IntN(2) == 0, rng: w.fork(), began: make(map[string]*account),
	}
	w.mu.Lock()
	w.travellers = append(w.travellers, t)
	w.mu.Unlock()
	w.readers.Go(t.run)
}

func (t *traveller) String() string {
	return fmt.Sprintf("client %d (user %s, %s)", t.n, t.user, t.namespace)
}

// run connects again and again.
func (t *traveller) run() {
	for {
		select {
		case <-t.w.over:
			return
		default:
		}
		nodes := t.w.live()
		if len(nodes) == 0 {
			pause(100*time.Millisecond, t.w.over)
			continue
		}
		l := t.w.attach(t, nodes[t.rng.IntN(len(nodes))])
		if l == nil {
			pause(20*time.Millisecond, t.w.over)
			continue
		}
		t.mu.Lock()
		t.link = l
		t.tries = append(t.tries, l.node)
		c := credentials{Client: t.n, User: t.user, Again: t.again, Recovery: true, PID: t.pid, Offset: t.offset}
		t.mu.Unlock()
		for i := range 3 {
			if t.rng.IntN(3) == 0 {
				c.Rooms = append(c.Rooms, fmt.Sprint("r", i))
			}
		}
		if t.rng.IntN(3) == 0 {
			c.Pause = time.Duration(t.rng.Int64N(int64(20 * time.Millisecond)))
		}
		l.connect(t.namespace, c)
		<-l.gone
		pause(t.stay(), t.w.over)
	}
}

// stay is how long the client stays away.
func (t *traveller) stay() time.Duration {
	switch t.rng.IntN(8) {
	case 0:
		return 0
	case 1, 2:
		return time.Duration(t.rng.Int64N(int64(time.Millisecond)))
	case 3, 4, 5:
		return time.Duration(t.rng.Int64N(int64(50 * time.Millisecond)))
	case 6:
		return time.Duration(t.rng.Int64N(int64(2 * time.Second)))
	}
	return time.Duration(t.rng.Int64N(int64(2 * t.w.recovery.Window)))
}

func (t *traveller) at() *link {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.link
}

func (t *traveller) account() *account {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

// accountOf is the account of the session with an ID, or the last one: a connection that the client has given up may
// still bring back a session from before.
func (t *traveller) accountOf(sid string) *account {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.began[sid]; a != nil {
		return a
	}
	return t.current
}

// id is the ID of its socket, "" before the first answer.
func (t *traveller) id() string {
	if a := t.account(); a != nil {
		return a.sid
	}
	return ""
}

// tried reports whether the client has asked for its session more than once, so that the first answer may be lost.
func (t *traveller) tried() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.tries, (*recoveringNode).isEnding)
}

// socket is the client's socket, if it is connected.
func (t *traveller) socket() (*recoveringNode, *hub.Socket, *account) {
	l, a := t.at(), t.account()
	if l == nil || a == nil {
		return nil, nil, nil
	}
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	for s, o := range l.node.owners {
		if o == a && s.Connected() {
			return l.node, s, a
		}
	}
	return nil, nil, nil
}

func (t *traveller) lose(silently bool) {
	if l := t.at(); l != nil {
		if silently {
			l.abandon()
		} else {
			l.breakOff()
		}
	}
}

func (t *traveller) hangUp(silently bool) { t.lose(silently) }

func (t *traveller) stall(d time.Duration) {
	if l := t.at(); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stall = d
	}
}

// say emits an event, if the client is connected.
func (t *traveller) say(event, arg string) {
	l := t.at()
	if l == nil || !l.isOpen() {
		return
	}
	text, _ := json.Marshal([]string{event, arg})
	t.w.jobs.Go(func() { l.say(header("2", t.namespace) + string(text)) })
}

func header(kind, namespace string) string {
	if namespace != "/" {
		return kind + namespace + ","
	}
	return kind
}

// begin is called by a hook for a socket that is not recovered.
func (t *traveller) begin(s *hub.Socket) *account {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sessions++
	a := &account{
		w: t.w, t: t, n: t.sessions, sid: s.ID(), namespace: t.namespace, user: t.user,
		got: make(map[uint64]bool), last: make(map[string]uint64),
	}
	s.SetData(&badgeOf{t.n, a.n})
	var c credentials
	_ = json.Unmarshal(s.Handshake().Auth, &c) // it has been read before
	for _, r := range append(c.Rooms, everyone, userRoom(t.user)) {
		a.ask(r).first = true
	}
	t.began[a.sid] = a
	t.w.mu.Lock()
	t.w.accounts = append(t.w.accounts, a)
	var may []string
	for m, n := range t.w.shifts {
		if n > 0 && m.namespace == a.namespace && m.user == a.user {
			may = append(may, m.room)
		}
	}
	a.kick = t.w.kicks[shift{t.namespace, userRoom(t.user), ""}] > 0 // it may be disconnected with those that were there
	t.w.mu.Unlock()
	for _, room := range may {
		a.maybe(room)
	}
	return a
}

// took handles a packet that the client has read.
func (t *traveller) took(l *link, k packet) {
	switch k.kind {
	case '0':
		t.answer(l, k)
	case '1':
		t.mu.Lock()
		a := t.current
		t.mu.Unlock()
		a.kicking()
		t.w.note("%v is told to go", t)
		l.breakOff()
	case '2', '5':
		t.event(l, k)
	case '4':
		if a := t.account(); a != nil {
			a.kicking()
		}
		t.w.note("%v is refused: %s", t, k.data)
		l.breakOff()
	default:
		t.w.violate("%v got a packet of kind %c", t, k.kind)
	}
}

// answer handles the answer to CONNECT.
func (t *traveller) answer(l *link, k packet) {
	var said struct{ Sid, Pid string }
	if json.Unmarshal(k.data, &said) != nil || said.Pid == "" {
		t.w.violate("%v: the answer to CONNECT is %s", t, k.data)
		return
	}
	t.mu.Lock()
	before, pid := t.current, t.pid
	recovered := said.Pid == pid
	t.pid = said.Pid
	if !recovered {
		t.current = t.began[said.Sid]
	}
	a := t.current
	t.mu.Unlock()
	switch {
	case a == nil || a.sid != said.Sid:
		t.w.violate("%v: recovered: %v, with the ID %s", t, recovered, said.Sid)
		return
	case !recovered && before != nil:
		l.node.mu.Lock()
		reason := l.node.reasons[said.Sid]
		l.node.mu.Unlock()
		t.w.note("%v is not recovered by %s: %s", t, l.node.name, reason)
		before.ends(l.node, reason)
	case recovered:
		t.w.note("%v is recovered by %s", t, l.node.name)
		t.w.mu.Lock()
		t.w.outcomes["recovered"]++
		t.w.mu.Unlock()
	}
	t.mu.Lock()
	t.tries = nil
	t.mu.Unlock()
	if since := t.w.bannedSince(t.user); recovered && since.n != 0 && since.n < l.began.n {
		t.w.violate("%v is recovered, and its user is banned", t)
	}
	if a.opens(l.node); recovered && a.kickedBefore(l.began) {
		t.w.violate("%v is recovered, and was disconnected", a)
	}
	l.mu.Lock()
	l.open = true
	l.mu.Unlock()
}

func (a *account) kickedBefore(m moment) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kicked.n != 0 && a.kicked.n < m.n
}

// event handles an event as the stock client does.
func (t *traveller) event(l *link, k packet) {
	var args []json.RawMessage
	var name string
	if json.Unmarshal(k.data, &args) != nil || len(args) < 2 || json.Unmarshal(args[0], &name) != nil {
		t.w.violate("%v got an event that is none: %s", t, k.data)
		return
	}
	a := t.account()
	if a == nil {
		t.w.violate("%v got %s before the answer to CONNECT", t, k.data)
		return
	}
	if k.id != "" { // a question
		t.w.jobs.Go(func() { l.say(header("3", t.namespace) + k.id + "[" + string(args[1]) + "]") })
		return
	}
	var e posted
	if json.Unmarshal(args[1], &e) != nil {
		t.w.violate("%v got an event without a number: %s", t, k.data)
		return
	}
	if len(args) == 5 {
		if number, _ := json.Marshal(e.Number); len(k.binary) != 1 || string(k.binary[0]) != string(number) {
			t.w.violate("%v got %s with the attachment of another: %q", t, k.data, k.binary)
		}
	}
	var offset string
	if json.Unmarshal(args[len(args)-1], &offset) != nil {
		t.w.violate("%v got an event without a position: %s", t, k.data)
	}
	a.receive(e.Number)
	t.mu.Lock()
	t.offset = offset
	t.mu.Unlock()
}

// forge has somebody try what the client has told the hub, with something changed.
func (w *recoveringWorld) forge(t *traveller, live []*recoveringNode) {
	t.mu.Lock()
	pid, offset, a := []byte(t.pid), t.offset, t.current
	t.mu.Unlock()
	if a == nil {
		return
	}
	namespace := t.namespace
	if w.rng.IntN(2) == 0 {
		pid[len(pid)-1-w.rng.IntN(20)] ^= 1 // of the secret
	} else {
		namespace = map[string]string{"/": "/b", "/b": "/"}[namespace]
	}
	f := &traveller{w: w, n: t.n, user: t.user, namespace: namespace}
	l := w.attach(f, live[w.rng.IntN(len(live))])
	if l == nil {
		return
	}
	w.note("somebody forges the session of %v in %s", t, namespace)
	l.forged = a.sid
	// It has the number of no client, so the hook cannot take it for one.
	l.connect(namespace, credentials{Client: -1, User: t.user, Recovery: true, PID: string(pid), Offset: offset})
	w.jobs.Go(func() {
		pause(3*time.Second, l.gone)
		l.breakOff()
	})
}
