package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
)

var recovering = Options{Recovery: Recovery{On: true}}

// returning is a client that may come back, as socket.io-client does: it keeps the secret of its session and
// the last position that it was given.
type returning struct {
	*peer
	h         *Hub
	auth      string // more members of its auth
	sid, pid  string
	offset    string
	recovered bool
}

func comes(t testing.TB, h *Hub) *returning {
	t.Helper()
	r := &returning{h: h}
	r.connect(t)
	return r
}

// connect opens a connection, and reads the answer to CONNECT.
func (r *returning) connect(t testing.TB) {
	t.Helper()
	r.dial(t)
	r.answer(t)
}

// dial opens a connection, and sends CONNECT.
func (r *returning) dial(t testing.TB) {
	t.Helper()
	r.peer = dial(t, r.h)
	auth := `{"recovery":true` + r.auth
	if r.pid != "" {
		auth = fmt.Sprintf(`{"pid":%q,"recovery":true%s`, r.pid, r.auth)
		if r.offset != "" {
			auth = fmt.Sprintf(`{"pid":%q,"offset":%q,"recovery":true%s`, r.pid, r.offset, r.auth)
		}
	}
	r.say("0" + auth + "}")
}

// answer reads the answer to CONNECT.
func (r *returning) answer(t testing.TB) {
	t.Helper()
	r.answered(t, r.nextPacket())
}

// turnedAway waits until the connection has ended without an answer to CONNECT: the client is to come back once more.
func (r *returning) turnedAway(t testing.TB) {
	t.Helper()
	select {
	case <-r.ended:
	case p := <-r.packets:
		t.Fatalf("the client is told %s", p.Text())
	case <-time.After(patience):
		t.Fatal("the connection is still there")
	}
}

// answered is answer for a packet that has been read.
func (r *returning) answered(t testing.TB, p *engine.Packet) {
	t.Helper()
	var a struct{ Sid, Pid string }
	text := string(p.Text())
	if rest, ok := strings.CutPrefix(text, "40"); !ok || json.Unmarshal([]byte(rest), &a) != nil || a.Pid == "" {
		t.Fatalf("the answer to CONNECT is %s", text)
	}
	r.recovered = a.Pid == r.pid
	r.sid, r.pid = a.Sid, a.Pid
}

// event reads an event, and returns its arguments without the position.
func (r *returning) event(t testing.TB) []any {
	t.Helper()
	return r.take(t, r.nextPacket())
}

// take is event for a packet that has been read.
func (r *returning) take(t testing.TB, p *engine.Packet) []any {
	t.Helper()
	text := string(p.Text())
	var args []any
	if err := json.Unmarshal([]byte(text[strings.Index(text, "["):]), &args); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if ackIDOf(p.Text()) >= 0 {
		return args
	}
	offset, ok := args[len(args)-1].(string)
	if !ok {
		t.Fatalf("an event without a position: %s", text)
	}
	r.offset = offset
	return args[:len(args)-1]
}

func (r *returning) wantEvents(t testing.TB, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if got := fmt.Sprint(r.event(t)); got != want {
			t.Fatalf("the client got %s, want %s", got, want)
		}
	}
}

func (r *returning) socket() *Socket { return r.h.socket(r.sid) }

// lose loses the connection; the hub knows when it returns.
func (r *returning) lose() { r.end(ReasonTransportClose) }

func TestAClientThatComesBackGetsWhatItHasMissed(t *testing.T) {
	h := alone(t, recovering)
	var log hooks
	log.install(h)
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		if s.Recovered() {
			if got := fmt.Sprint(s.Users(), s.Rooms()[1:], s.Data()); got != "[user:7] [user:7 room:a]data" {
				t.Errorf("it comes back with %s", got)
			}
			return nil
		}
		s.SetData("data")
		return s.Register(ctx, "7")
	})
	r := comes(t, h)
	if r.recovered {
		t.Error("a new client is recovered")
	}
	r.wantEvents(t, "[/ops/connection-success map[message:Successfully connected]]")
	if err := r.socket().Join(context.Background(), Room("a")); err != nil {
		t.Fatal(err)
	}
	other, s := connect(t, h)
	s.Join(context.Background(), Room("a"))
	mustEmit(t, h.Emitter(), User("7"), "x", 1)
	r.wantEvents(t, "[x 1]")
	sid, pid := r.sid, r.pid
	mustEmit(t, h.Emitter(), User("7"), "x", 2) // it is sent, and never read
	r.lose()
	mustEmit(t, h.Emitter(), Room("a"), "x", 3, Binary("abc"))
	mustEmit(t, h.Emitter().Volatile(), User("7"), "x", "worth nothing later")
	mustEmit(t, h.Emitter(), SocketID(sid), "x", 4)
	mustEmit(t, h.Emitter(), Everyone, "x", 5)
	mustEmit(t, h.Emitter(), Room("b"), "x", "not for it")
	if n := h.Stats(); n.Parked != 1 || n.Sockets != 1 || h.Of("/").Len() != 1 {
		t.Errorf("%d parked, %d sockets, %d in the namespace", n.Parked, n.Sockets, h.Of("/").Len())
	}
	r.connect(t)
	if !r.recovered || r.sid != sid || r.pid != pid {
		t.Fatalf("recovered: %v, %s was %s", r.recovered, r.sid, sid)
	}
	r.wantEvents(t, "[x 2]", "[x 3 map[_placeholder:true num:0]]", "[x 4]", "[x 5]")
	mustEmit(t, h.Emitter(), User("7"), "x", 6)
	r.wantEvents(t, "[x 6]")
	r.wantNothing()
	log.want(t, "connect", "disconnect transport close", "connect again")

	// A client that has not asked sees the same bytes as ever.
	other.next() // the greeting
	other.want(`42["x",1]`, `42["x",2]`, `451-["x",3,{"_placeholder":true,"num":0}]`,
		`42["x","worth nothing later"]`, `42["x",5]`, `42["x",6]`)
	other.wantNothing()
}

// hooks notes what the hooks of recovery are told.
type hooks struct {
	mu   sync.Mutex
	said []string      // guarded by mu
	news chan struct{} // one token
}

func (l *hooks) add(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, text)
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *hooks) install(h *Hub) {
	l.news = make(chan struct{}, 1)
	n := h.Of("/")
	asked := func(s *Socket) bool { return s.sessionOf() != nil }
	n.OnConnect(func(_ context.Context, s *Socket) error {
		switch {
		case s.Recovered():
			l.add("connect again")
		case asked(s):
			l.add("connect")
		}
		return nil
	})
	n.OnDisconnect(func(s *Socket, r Reason) {
		if asked(s) {
			l.add("disconnect " + string(r))
		}
	})
	n.OnUnrecovered(func(s *Socket, r Reason) { l.add("unrecovered " + string(r)) })
}

// want waits until as much has been said, and compares.
func (l *hooks) want(t testing.TB, want ...string) {
	t.Helper()
	for {
		l.mu.Lock()
		said := slices.Clone(l.said)
		l.mu.Unlock()
		if len(said) >= len(want) {
			if !slices.Equal(said, want) {
				t.Errorf("the hooks were told %q, want %q", said, want)
			}
			return
		}
		select {
		case <-l.news:
		case <-time.After(patience):
			t.Fatalf("the hooks were told %q, want %q", said, want)
		}
	}
}

func TestWhatAClientSaysIsItsPosition(t *testing.T) {
	h := alone(t, recovering)
	r := comes(t, h)
	r.lose()
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	r.connect(t) // it has had no event yet
	if !r.recovered {
		t.Error("a client that has had no event is not recovered")
	}
	r.wantEvents(t, "[x 1]")

	r = &returning{h: h, pid: "of another server", offset: "somewhere"}
	r.connect(t)
	r.lose()
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 2)
	r.connect(t)
	if !r.recovered {
		t.Error("a client that names what it had before the session is not recovered")
	}
	r.wantEvents(t, "[x 2]")

	s := unheld(t, r.socket())
	s.Volatile().Emit("x", "text") // its last argument is not taken for a position
	r.wantEvents(t, "[x text]")
	r.lose()
	r.connect(t)
	if !r.recovered {
		t.Error("a client whose last event was volatile is not recovered")
	}
	r.wantNothing()

	r.offset = "text" // as if it had been
	r.lose()
	r.connect(t)
	if r.recovered {
		t.Error("a client is recovered from a position that there never was")
	}
	if u := h.Stats(); u.UnrecoveredUnknown != 2 {
		t.Errorf("unrecovered: %+v", u)
	}
}

func TestAnOldLinkThatSeemsToBeAliveIsTakenOver(t *testing.T) {
	h := alone(t, recovering)
	var log hooks
	log.install(h)
	r := comes(t, h)
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	old := r.peer // what it is sent is never read
	r.connect(t)
	if !r.recovered {
		t.Error("it is not recovered")
	}
	r.wantEvents(t, "[x 1]")
	<-old.ended
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 2)
	r.wantEvents(t, "[x 2]")
	log.want(t, "connect", "disconnect transport close", "connect again")
	if n := h.Of("/").Len(); n != 1 {
		t.Errorf("%d sockets are connected", n)
	}
}

func TestHooksMayRefuseASocketThatComesBack(t *testing.T) {
	h := alone(t, recovering)
	var log hooks
	log.install(h)
	revoked := false
	h.Of("/").Use(func(_ context.Context, s *Socket) error {
		if revoked {
			return Refuse("revoked", nil)
		}
		return nil
	})
	r := comes(t, h)
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	r.lose()
	revoked = true
	r.dial(t)
	r.want(`44{"message":"revoked"}`)
	log.want(t, "connect", "disconnect transport close", "unrecovered refused")
	revoked = false
	r.connect(t)
	if r.recovered {
		t.Error("a session that was refused is there again")
	}
	r.wantNothing()
	if h.Stats().Parked != 0 || h.logs.Used() != 0 {
		t.Errorf("%d sessions are parked, %d bytes are kept", h.Stats().Parked, h.logs.Used())
	}
}

func TestAnotherUserDoesNotGetTheSession(t *testing.T) {
	h := alone(t, recovering)
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		var auth struct{ User string }
		json.Unmarshal(s.Handshake().Auth, &auth)
		if auth.User == "" {
			s.Leave(s.Users()...)
			return nil
		}
		return s.Register(ctx, auth.User)
	})
	r := &returning{h: h, auth: `,"user":"7"`}
	r.connect(t)
	r.event(t)
	r.lose()
	mustEmit(t, h.Emitter(), User("7"), "x", "secret")
	r.auth = `,"user":"8"`
	r.dial(t)
	r.turnedAway(t)
	r.connect(t)
	if r.recovered {
		t.Error("it is recovered")
	}
	r.wantEvents(t, "[/ops/connection-success map[message:Successfully connected]]")
	r.wantNothing()
	if got := fmt.Sprint(r.socket().Users()); got != "[user:8]" {
		t.Errorf("it is registered for %s", got)
	}

	r.lose()
	mustEmit(t, h.Emitter(), User("8"), "x", "secret")
	r.auth = "" // it does not say any more who it is
	r.dial(t)
	r.turnedAway(t)
	r.connect(t)
	if r.recovered {
		t.Error("it is recovered as nobody")
	}
	r.wantNothing()
	if got := fmt.Sprint(r.socket().Users()); got != "[]" {
		t.Errorf("it is registered for %s", got)
	}
}

func TestASocketThatHasPassedItsSessionOnDoesNotSayWhyThatEnds(t *testing.T) {
	h := alone(t, recovering)
	r := comes(t, h)
	before := r.socket()
	r.lose()
	r.connect(t)
	s := r.socket()
	v := s.sessionOf()
	if before == s || before.sessionOf() != v {
		t.Fatal("the session is not recovered")
	}
	before.dropped(v) // it was still being sent what was kept for it
	s.mu.Lock()
	if v.why != lossNone {
		t.Errorf("the session ends because of %q", lossText[v.why])
	}
	s.mu.Unlock()
	s.dropped(v)
	s.mu.Lock()
	if v.why != lossOverflowed {
		t.Errorf("the session ends because of %q", lossText[v.why])
	}
	s.mu.Unlock()
}

func TestASecretIsGoodForNothingElse(t *testing.T) {
	h := alone(t, recovering)
	h.Of("/other")
	r := comes(t, h)
	pid := r.pid
	forged := []byte(pid)
	forged[len(forged)-1] ^= 1
	for _, wrong := range []string{string(forged), pid[:len(pid)-1], pid + "A", strings.Repeat("A", len(pid)), "x", newTag() + pid[tagLength:]} {
		f := &returning{h: h, pid: wrong}
		f.connect(t)
		if f.recovered || f.sid == r.sid {
			t.Errorf("%q is good for the session of %q", wrong, pid)
		}
	}
	p := dial(t, h)
	p.say(fmt.Sprintf(`0/other,{"pid":%q,"recovery":true}`, pid))
	if text := p.next(); strings.Contains(text, pid) || strings.Contains(text, r.sid) {
		t.Errorf("it is good in another namespace: %s", text)
	}
	if auth := string(r.socket().Handshake().Auth); strings.Contains(auth, "pid") {
		t.Errorf("the application sees it: %s", auth)
	}
	r.lose()
	r.connect(t)
	if auth := string(r.socket().Handshake().Auth); !r.recovered || auth != `{"recovery":true}` {
		t.Errorf("recovered: %v, auth %s", r.recovered, auth)
	}
}

func TestAQuestionThatMayNotHaveArrivedIsNotForgotten(t *testing.T) {
	h := alone(t, recovering)
	var log hooks
	log.install(h)
	r := comes(t, h)
	ask := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		s := r.socket()
		go func() { // the test waits for done
			_, err := s.EmitAck(ctx, "q")
			done <- err
		}()
		return done
	}
	answered := ask(context.Background())
	r.wantEvents(t, "[q]")
	r.say("30[]")
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	r.lose()
	r.connect(t)
	if !r.recovered {
		t.Error("a client that has answered is not recovered")
	}
	ctx, cancel := context.WithCancel(context.Background())
	given := ask(ctx)
	r.wantEvents(t, "[q]")
	cancel()
	<-given
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	r.wantEvents(t, "[x 1]")
	r.lose()
	r.connect(t)
	if !r.recovered {
		t.Error("a client that has had what came after the question is not recovered")
	}
	ctx, cancel = context.WithCancel(context.Background())
	given = ask(ctx)
	r.wantEvents(t, "[q]")
	cancel()
	<-given
	r.lose()
	r.connect(t)
	if r.recovered {
		t.Error("a client that may have missed a question is recovered")
	}
	pending := ask(context.Background())
	r.wantEvents(t, "[q]")
	r.lose()
	if err := <-pending; err != ErrDisconnected {
		t.Errorf("who waits is told %v", err)
	}
	r.connect(t)
	if r.recovered {
		t.Error("a client whose answer is lost is recovered")
	}
	if u := h.Stats(); u.UnrecoveredQuestion != 2 {
		t.Errorf("unrecovered: %+v", u)
	}
}

// A client that is away when its room is asked has missed an event which is not kept.
func TestAQuestionToARoomIsNotMissedInSilence(t *testing.T) {
	hubs := several(t, 2, recovering)
	r := comes(t, hubs[0])
	for _, c := range []struct {
		e    *Emitter
		want bool
	}{{hubs[1].Emitter().Volatile(), true}, {hubs[1].Emitter(), false}} {
		r.lose()
		for a := range c.e.EmitAck(t.Context(), Everyone, "q").All {
			t.Errorf("one that is away has answered: %+v", a)
		}
		if r.connect(t); r.recovered != c.want {
			t.Errorf("recovered: %v, want %v", r.recovered, c.want)
		}
	}
	if u := hubs[0].Stats(); u.UnrecoveredQuestion != 1 {
		t.Errorf("unrecovered: %+v", u)
	}
}

func TestASessionWaitsForItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := alone(t, Options{Recovery: Recovery{On: true, Window: time.Minute}})
		var log hooks
		log.install(h)
		r := comes(t, h)
		time.Sleep(time.Hour) // quiet, and connected
		r.lose()
		time.Sleep(59 * time.Second)
		r.connect(t)
		if !r.recovered {
			t.Error("it is not recovered within the window")
		}
		r.lose()
		time.Sleep(61 * time.Second)
		log.want(t, "connect", "disconnect transport close", "connect again", "disconnect transport close", "unrecovered expired")
		if n := h.Stats(); n.Parked != 0 || n.Kept != 0 || h.sockets.len() != 0 {
			t.Errorf("something is left: %+v", n)
		}
		r.connect(t)
		if u := h.Stats(); r.recovered || u.UnrecoveredExpired != 1 {
			t.Errorf("recovered: %v, %+v", r.recovered, u)
		}
	})
}

func TestWhatIsKeptHasBounds(t *testing.T) {
	text := strings.Repeat("x", 1000)
	for name, o := range map[string]Recovery{
		"of a session": {SessionBytes: 10_000},
		"of a user":    {UserBytes: 10_000},
		"of the node":  {TotalBytes: 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			o.On = true
			h := alone(t, Options{Recovery: o, Greeting: Greeting{Off: true}})
			h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Register(ctx, "7") })
			r := comes(t, h)
			r.lose()
			for range 8 {
				mustEmit(t, h.Emitter(), SocketID(r.sid), "x", text)
			}
			r.connect(t)
			if !r.recovered {
				t.Fatal("what is within the bound is not kept")
			}
			for range 8 {
				r.wantEvents(t, fmt.Sprintf("[x %s]", text))
			}
			r.lose()
			other := comes(t, h)
			for range 12 {
				mustEmit(t, h.Emitter(), SocketID(r.sid), "x", text)
			}
			other.lose()
			h.sweepParked(time.Now())
			h.boundUsers(other.socket())
			if used := h.logs.Used(); used > 20_000 {
				t.Errorf("%d bytes are kept", used)
			}
			r.connect(t)
			if u := h.Stats(); r.recovered || u.UnrecoveredOverflowed != 1 {
				t.Errorf("recovered: %v, %+v", r.recovered, u)
			}
		})
	}
}

// TestMoreThanIsKeptBeforeItIsSent has the hook emit more than the session may keep: the connection ends, and the client is
// told why when it comes again.
func TestMoreThanIsKeptBeforeItIsSent(t *testing.T) {
	h := alone(t, Options{Recovery: Recovery{On: true, SessionBytes: 10_000}, Greeting: Greeting{Off: true}})
	times := 0
	h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
		if times++; times == 1 {
			for range 20 {
				if err := s.Emit("x", strings.Repeat("x", 1000)); err != nil {
					t.Error(err)
				}
			}
		}
		return nil
	})
	r := comes(t, h)
	<-r.ended
	r.connect(t)
	if u := h.Stats(); r.recovered || u.UnrecoveredOverflowed != 1 {
		t.Errorf("recovered: %v, %+v", r.recovered, u)
	}
}

func TestAGapEndsWhatCannotBeKnown(t *testing.T) {
	h := alone(t, recovering)
	var log hooks
	log.install(h)
	parked, live, back := comes(t, h), comes(t, h), comes(t, h)
	began := time.Now()
	back.lose()
	back.connect(t)
	parked.lose()
	h.gap(broker.Gap{From: began, To: time.Now()})
	<-back.ended // it was told that it is recovered
	parked.connect(t)
	live.lose()
	live.connect(t)
	back.connect(t)
	if parked.recovered || live.recovered || back.recovered {
		t.Errorf("recovered: %v, %v, %v", parked.recovered, live.recovered, back.recovered)
	}
	if u := h.Stats(); u.UnrecoveredGap != 3 {
		t.Errorf("unrecovered: %+v", u)
	}
	mustEmit(t, h.Emitter(), SocketID(live.sid), "x", 1)
	live.wantEvents(t, "[x 1]")
	h.gap(broker.Gap{From: began, To: time.Now(), Subjects: []string{"none of its"}})
	live.lose()
	live.connect(t)
	if !live.recovered {
		t.Error("a gap of others has ended the session")
	}
	if err := live.socket().Wait(t.Context()); err != nil { // else the gap may meet what it is sent again
		t.Fatal(err)
	}
	h.gap(broker.Gap{From: time.Now(), To: time.Now(), Subjects: []string{h.Of("/").subject}})
	mustEmit(t, h.Emitter(), SocketID(live.sid), "x", 2)
	live.wantEvents(t, "[x 2]")
	live.lose()
	live.connect(t)
	if !live.recovered {
		t.Error("a client that has had an event since the gap is not recovered")
	}
}

// TestNobodyIsRecoveredWhileTheBrokerIsAway: the node does not have what is emitted elsewhere. The session waits.
func TestNobodyIsRecoveredWhileTheBrokerIsAway(t *testing.T) {
	h := alone(t, recovering)
	r := comes(t, h)
	r.lose()
	h.setState(broker.ErrUnavailable)
	r.dial(t)
	r.turnedAway(t)
	h.setState(nil)
	r.connect(t)
	if !r.recovered {
		t.Error("it is not recovered when the broker is back")
	}
	r.wantNothing()
	r.lose()
	h.setState(fmt.Errorf("%w: %w", broker.ErrPart, broker.ErrUnavailable))
	if r.connect(t); !r.recovered {
		t.Error("it is not recovered while a part of the broker is away, which others use")
	}
}

func TestTheServerEndsASessionThatWaits(t *testing.T) {
	hubs := several(t, 2, recovering)
	h := hubs[0]
	var log hooks
	log.install(h)
	r := comes(t, h)
	ctx := context.Background()
	if err := r.socket().Join(ctx, Room("a"), Room("b")); err != nil {
		t.Fatal(err)
	}
	r.lose()
	e := hubs[1].Emitter()
	if _, err := e.Leave(ctx, Room("a"), Room("b")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Join(ctx, Room("a"), Room("c")); err != nil {
		t.Fatal(err)
	}
	for s := range e.FetchSockets(ctx, Everyone, FetchOptions{}).All {
		t.Errorf("%s is found", s.ID)
	}
	for a := range e.Volatile().EmitAck(ctx, Everyone, "q").All {
		t.Errorf("%s is asked", a.ID)
	}
	for i, room := range []string{"a", "b", "c"} {
		mustEmit(t, e, Room(room), "x", i)
	}
	r.connect(t)
	r.wantEvents(t, "[x 0]", "[x 2]")
	r.lose()
	if _, err := e.Disconnect(ctx, Room("a"), true); err != nil {
		t.Fatal(err)
	}
	log.want(t, "connect", "disconnect transport close", "connect again", "disconnect transport close", "unrecovered refused")
	r.connect(t)
	if r.recovered {
		t.Error("it comes back after it was disconnected")
	}
}

func TestAClientThatIsLostAgainWhileItComesBack(t *testing.T) {
	h := alone(t, recovering)
	var log hooks
	log.install(h)
	in, out := make(chan struct{}), make(chan struct{})
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		if !s.Recovered() {
			return nil
		}
		in <- struct{}{}
		select {
		case <-out:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	r := comes(t, h)
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	r.lose()
	r.dial(t)
	<-in
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 2)
	r.lose()
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 3)
	r.dial(t)
	<-in
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 4)
	old := r.peer
	r.dial(t) // the server has not noticed that the other is gone
	<-in
	<-old.ended
	old.wantNothing()
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 5)
	close(out)
	r.answer(t)
	if !r.recovered {
		t.Error("it is not recovered")
	}
	r.wantEvents(t, "[x 1]", "[x 2]", "[x 3]", "[x 4]", "[x 5]")
	log.want(t, "connect", "disconnect transport close", "connect again", "connect again", "connect again")
}

func TestNothingFromBeforeAJoinIsSentAgain(t *testing.T) {
	h := alone(t, recovering)
	r, other := comes(t, h), comes(t, h)
	other.socket().Join(context.Background(), Room("a"))
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	mustEmit(t, h.Emitter(), Room("a"), "x", "before")
	r.socket().Join(context.Background(), Room("a"))
	r.lose()
	mustEmit(t, h.Emitter(), Room("a"), "x", 2)
	r.connect(t)
	r.wantEvents(t, "[x 1]", "[x 2]")
	r.wantNothing()
}

// TestClientsThatFlap has clients lose their connections and take over half-open ones while several emitters emit
// to them, and checks that each gets everything once, in the order of each emitter.
func TestClientsThatFlap(t *testing.T) {
	const clients, emitters, events = 4, 3, 400
	h := alone(t, Options{Recovery: Recovery{On: true}, Greeting: Greeting{Off: true}})
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		if s.Recovered() {
			return nil
		}
		return s.Join(ctx, Room("0"), Room("1"), Room("2"))
	})
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range emitters {
		wg.Go(func() {
			<-begin
			for n := range events {
				mustEmit(t, h.Emitter(), Room(fmt.Sprint(i)), "x", i, n)
			}
		})
	}
	var ready sync.WaitGroup
	ready.Add(clients)
	for i := range clients {
		wg.Go(func() {
			r := comes(t, h)
			ready.Done()
			<-begin
			var next [emitters]int
			for n := 0; next != [emitters]int{events, events, events}; n++ {
				args := r.event(t)
				from, number := int(args[1].(float64)), int(args[2].(float64))
				if next[from] != number {
					t.Errorf("client %d got event %d of emitter %d, want %d", i, number, from, next[from])
					return
				}
				next[from]++
				if n%17 == i { // it loses what it has not read
					if n%2 == 0 {
						r.lose()
					}
					if r.connect(t); !r.recovered {
						t.Errorf("client %d is not recovered: %+v", i, h.Stats())
						return
					}
				}
			}
			r.wantNothing()
		})
	}
	ready.Wait()
	close(begin)
	wg.Wait()
}

func TestALogDoesNotGrowWhilePongsCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := new(engine.Gate)
		total := engine.NewLogTotal(1 << 20)
		l := engine.NewLog(gate, 1<<20, total)
		add := func(i int) {
			p := engine.NewPacket(engine.Terms{}, fmt.Appendf(nil, `42["x",%d]`, i))
			if !l.Add(engine.NewEntry(p, []byte(`"p"`)), gate) {
				t.Fatal("it is not added")
			}
		}
		for i := range 100 {
			add(i)
			l.Mark(time.Now())
			time.Sleep(time.Second)
			l.Confirm(time.Now())
		}
		if size := l.Size(); size > 15*40 {
			t.Errorf("%d bytes are kept", size)
		}
		if n, matched, intact := l.After(func(*engine.Entry) bool { return false }); n != 100 || matched || !intact {
			t.Errorf("the client lacks what comes from %d on, %v", n, intact)
		}
		l.Close()
		if total.Used() != 0 {
			t.Errorf("%d bytes are used", total.Used())
		}
	})
}

func TestRecoveryIsOffUnlessItIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		o           Recovery
		query, auth string
		want        bool
	}{
		"off":                 {Recovery{}, "&recovery=1", `{"recovery":true}`, false},
		"not asked":           {Recovery{On: true}, "&recovery=0", `{}`, false},
		"asked for otherwise": {Recovery{On: true}, "", `{"recovery":"yes"}`, false},
		"asked in the auth":   {Recovery{On: true}, "", `{"recovery":true}`, true},
		"asked in the query":  {Recovery{On: true}, "&recovery=1", ``, true},
		"all":                 {Recovery{On: true, All: true}, "", ``, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, memory.NewBus().Broker(), Options{Recovery: c.o})
			w := newWire()
			client, err := h.attach(w, httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket"+c.query, nil))
			if err != nil {
				t.Fatal(err)
			}
			w.client = client
			p := &peer{w, t}
			p.say("0" + c.auth)
			if got := strings.Contains(p.next(), "pid"); got != c.want {
				t.Errorf("it has a session: %v", got)
			}
		})
	}
}
