package nats_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/nats"
	"tether/internal/backend"
)

// configured returns a server with a configuration, and a function that changes it for the next start or
// reload.
func configured(t *testing.T, config string) (s *backend.Server, configure func(config string)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	write(t, file, []byte(config))
	return backend.NATS(t, "-c", file), func(config string) { write(t, file, []byte(config)) }
}

// allowed is a configuration in which the user u may subscribe to some subjects, and not to others.
func allowed(subscribe string, deny ...string) string {
	return fmt.Sprintf(`authorization: { users: [ { user: w, password: p }, { user: u, password: p, permissions: {
		publish: { allow: ">", deny: "tether.s.mute" }, subscribe: { allow: %q, deny: [%s] } } } ] }`, subscribe, quoted(deny))
}

func quoted(words []string) string {
	var b []byte
	for _, w := range words {
		b = append(strconv.AppendQuote(b, w), ',')
	}
	return string(b)
}

func TestWhatTheServerRefusesIsAnErrorForThatAlone(t *testing.T) {
	t.Parallel()
	s, _ := configured(t, allowed(">", "tether.s.deaf"))
	n := run(t, open(t, "nats://u:p@"+s.Addr), make(chan broker.Message, 10))
	errs := n.Subscribe(t.Context(), "a", "deaf", "b")
	if len(errs) != 3 || errs[0] != nil || errs[2] != nil || !errors.Is(errs[1], broker.ErrRefused) || !errors.Is(errs[1], natsio.ErrPermissionViolation) {
		t.Fatalf("Subscribe: got %v, want the second refused", errs)
	}
	n.subscribe(t, "a", "b", "c", "mute") // the last is one that it must not publish to
	reach, err := n.Publish(t.Context(), broker.Message{Subject: "mute"}, broker.Message{Subject: "a"}, broker.Message{Subject: "deaf"})
	want := []broker.Receipt{unknown, one, {}}
	for i := 1; i < len(want); i++ {
		if late(reach[i]) {
			want[i] = unknown
		}
	}
	if !errors.Is(err, broker.ErrRefused) || !errors.Is(err, natsio.ErrPermissionViolation) || !slices.Equal(reach, want) {
		t.Errorf("Publish: got %v, %v, want %v, refused", reach, err, want)
	}
	w := open(t, "nats://w:p@"+s.Addr)
	defer w.Close()
	for _, subject := range []string{"a", "b", "c", "mute"} {
		if reach := settled(t, w, subject, ""); reach != one {
			t.Errorf("%s: got %+v, want %+v", subject, reach, one)
		}
	}
	if len(n.lost)+len(n.gaps)+len(n.states) > 0 {
		t.Errorf("others have noticed: %d lost, %d gaps, %d states", len(n.lost), len(n.gaps), len(n.states))
	}
}

func TestSubscriptionsThatAPermissionEndsAreLostAndCanBeHadAgain(t *testing.T) {
	t.Parallel()
	s, configure := configured(t, allowed(">"))
	n := run(t, open(t, "nats://u:p@"+s.Addr), make(chan broker.Message, 10))
	w := open(t, "nats://w:p@"+s.Addr)
	defer w.Close()
	n.subscribe(t, "a", "b", "c")
	begin := time.Now()
	configure(allowed(">", "tether.s.a", "tether.s.b"))
	s.Reload()
	var lost []string
	for len(lost) < 2 {
		g := receive(t, n.lost)
		if !errors.Is(g.Cause, broker.ErrRefused) || g.From.After(time.Now()) || g.From.Before(begin.Add(-3*time.Second)) {
			t.Errorf("got %+v, want one from just before %v on, refused", g, begin)
		}
		lost = append(lost, g.Subjects...)
	}
	slices.Sort(lost)
	if want := []string{"a", "b"}; !slices.Equal(lost, want) {
		t.Errorf("%q are lost, want %q", lost, want)
	}
	if a, c := settled(t, w, "a", ""), settled(t, w, "c", ""); a != (broker.Receipt{}) || c != one {
		t.Errorf("got %+v and %+v, want nobody and one", a, c)
	}
	if errs := n.Subscribe(t.Context(), "a", "c"); len(errs) != 2 || !errors.Is(errs[0], broker.ErrRefused) || errs[1] != nil {
		t.Errorf("Subscribe: got %v, want the first refused", errs)
	}
	configure(allowed(">"))
	s.Reload()
	deadline := time.Now().Add(30 * time.Second)
	for errors.Join(n.Subscribe(t.Context(), "a", "b")...) != nil {
		if time.Now().After(deadline) {
			t.Fatal("it is refused for good")
		}
		<-time.After(10 * time.Millisecond)
	}
	if reach := settled(t, w, "a", ""); reach != one {
		t.Errorf("got %+v, want one", reach)
	}
}

func TestANodeThatMayHearNothingSaysSoAndComesBack(t *testing.T) {
	t.Parallel()
	s, configure := configured(t, allowed(">"))
	n := run(t, open(t, "nats://u:p@"+s.Addr), make(chan broker.Message, 10))
	n.subscribe(t, "a")
	for _, allow := range []string{"_INBOX.>", "tether.>"} {
		configure(allowed(allow))
		s.Reload()
		if err := receive(t, n.states); !errors.Is(err, natsio.ErrPermissionViolation) && !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("only %s: State: got %v, want that it is refused", allow, err)
		}
		configure(allowed(">"))
		s.Reload()
		for err := receive(t, n.states); err != nil; err = receive(t, n.states) {
		}
		for len(n.lost) > 0 {
			<-n.lost
		}
		n.subscribe(t, "a")
		if reach := settled(t, n, "a", ""); reach != one {
			t.Errorf("only %s, and then all again: got %+v, want one", allow, reach)
		}
	}
}

func TestALimitOnSubscriptionsConcernsThoseThatAreTooMany(t *testing.T) {
	t.Parallel()
	s, _ := configured(t, "max_subscriptions: 8")
	n := run(t, open(t, s.URL), make(chan broker.Message, 10))
	n.subscribe(t, "a", "b") // and four of our own
	for range 3 {
		errs := n.Subscribe(t.Context(), "c", "d", "e", "f")
		refused := 0
		for _, err := range errs {
			if errors.Is(err, broker.ErrRefused) && errors.Is(err, natsio.ErrMaxSubscriptionsExceeded) {
				refused++
			} else if err != nil {
				t.Errorf("got %v, want %v", err, broker.ErrRefused)
			}
		}
		if len(errs) != 4 || refused != 2 || errs[0] != nil || errs[1] != nil {
			t.Fatalf("got %v, want the last two refused", errs)
		}
	}
	for _, subject := range []string{"a", "b", "c", "d"} {
		if reach := settled(t, n, subject, ""); reach != one {
			t.Errorf("%s: got %+v, want one", subject, reach)
		}
	}
	if reach := settled(t, n, "e", ""); !reach.Nobody() {
		t.Errorf("e: got %+v, want nobody", reach)
	}
	n.unsubscribe(t, "a", "b")
	n.subscribe(t, "e", "f")
	if reach := settled(t, n, "f", ""); reach != one {
		t.Errorf("when there is room: got %+v, want one", reach)
	}
	if len(n.lost)+len(n.gaps)+len(n.states) > 0 {
		t.Errorf("others have noticed: %d lost, %d gaps, %d states", len(n.lost), len(n.gaps), len(n.states))
	}
}

// lower stops the server, and starts it with a limit that leaves out 24 of the 60 rooms of a node.
func lower(t *testing.T, s *backend.Server, configure func(config string), n node) {
	t.Helper()
	names := subjects(60)
	n.subscribe(t, names...)
	s.Stop()
	if err := receive(t, n.states); err == nil {
		t.Fatal("State: got nil, want an error")
	}
	configure("max_subscriptions: 40")
	s.Start()
	if err := receive(t, n.states); err != nil {
		t.Fatalf("State: got %v, want nil", err)
	}
	lost := make(map[string]bool)
	for len(n.lost) > 0 {
		for _, subject := range (<-n.lost).Subjects {
			lost[subject] = true
		}
	}
	if len(lost) != 24 { // four are our own
		t.Errorf("%d are lost, want 24", len(lost))
	}
	receive(t, n.gaps)
	for _, subject := range names {
		if reach := settled(t, n, subject, ""); reach.Nobody() != lost[subject] {
			t.Errorf("%s, lost %t: got %+v", subject, lost[subject], reach)
		}
	}
}

func TestWhatALowerLimitLeavesOutAfterAReconnectIsLostAndAllElseIsThere(t *testing.T) {
	t.Parallel()
	s, configure := configured(t, "max_subscriptions: 100")
	lower(t, s, configure, run(t, open(t, s.URL), make(chan broker.Message, 1000)))
}

// asking is a connection that tells when the driver asks which rooms are subscribed.
type asking struct {
	net.Conn
	asks func()
}

func (c asking) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(".Q 0\r\n")) {
		c.asks()
	}
	return c.Conn.Write(p)
}

// All is well when it is known which rooms are subscribed, and not before: messages that are dropped may
// have been the answers.
func TestANodeThatCannotTellWhatIsSubscribedAsksAgainBeforeItIsUp(t *testing.T) {
	t.Parallel()
	s, configure := configured(t, "max_subscriptions: 100")
	var connections, drops atomic.Int32
	var b broker.Broker
	conn := connect(t, s.URL, nats.ConnectOptions(func(network, address string) (net.Conn, error) {
		c, err := net.Dial(network, address)
		if err != nil || connections.Add(1) == 1 {
			return c, err
		}
		return asking{c, func() {
			if drops.Add(1) == 1 {
				nats.Drop(b)
			}
		}}, nil
	})...)
	b, err := nats.New(conn, nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lower(t, s, configure, run(t, b, make(chan broker.Message, 1000)))
	if drops.Load() < 2 {
		t.Error("it has not asked again")
	}
}

// hiding is a connection on which, once the subscriptions have been sent anew, a message comes behind what the
// server says of them, and for nobody that takes it.
type hiding struct {
	net.Conn
	sent *atomic.Bool
}

func (c hiding) Write(p []byte) (int, error) {
	if string(p) == "SUB app  1\r\n" { // the server shall not count it
		c.sent.Store(true)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c hiding) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:len(p)/2])
	if i := bytes.Index(p[:n], []byte("PONG\r\n")); i >= 0 && c.sent.Swap(false) {
		return copy(p, slices.Insert(slices.Clone(p[:n]), i, []byte("MSG app 1 1\r\nx\r\n")...)), err
	}
	return n, err
}

// nats.go keeps the last error only.
func TestARefusalIsFoundBehindAnotherError(t *testing.T) {
	t.Parallel()
	s, configure := configured(t, "max_subscriptions: 100")
	var connections atomic.Int32
	conn := connect(t, s.URL, nats.ConnectOptions(func(network, address string) (net.Conn, error) {
		c, err := net.Dial(network, address)
		if err != nil || connections.Add(1) == 1 {
			return c, err
		}
		return hiding{c, new(atomic.Bool)}, nil
	})...)
	if _, err := conn.ChanSubscribe("app", make(chan *natsio.Msg)); err != nil {
		t.Fatal(err)
	}
	b, err := nats.New(conn, nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lower(t, s, configure, run(t, b, make(chan broker.Message, 1000)))
}

// forgetful is a connection that loses the subscriptions of a subject on the way to the server.
type forgetful struct {
	net.Conn
	from *atomic.Bool
}

var subOfVictim = regexp.MustCompile(`SUB tether\.s\.victim  ?\d+\r\n`)

func (c forgetful) Write(p []byte) (int, error) {
	if c.from.Load() && bytes.Contains(p, []byte("victim")) {
		if _, err := c.Conn.Write(subOfVictim.ReplaceAll(p, nil)); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A server says when it ends a subscription. If it does not, or something in between forgets one, that is
// found all the same.
func TestASubscriptionThatEndsWithoutAWordIsFound(t *testing.T) {
	t.Parallel()
	s := backend.NATS(t)
	var forgets atomic.Bool
	conn := connect(t, s.URL, nats.ConnectOptions(func(network, address string) (net.Conn, error) {
		c, err := net.Dial(network, address)
		return forgetful{c, &forgets}, err
	})...)
	b, err := nats.New(conn, nats.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := run(t, b, make(chan broker.Message, 10))
	forgets.Store(true)
	n.subscribe(t, "victim", "other")
	forgets.Store(false)
	if g := receive(t, n.lost); !slices.Equal(g.Subjects, []string{"victim"}) {
		t.Errorf("got %+v, want one of victim", g)
	}
	n.subscribe(t, "victim")
	if reach := settled(t, n, "victim", ""); reach != one {
		t.Errorf("got %+v, want one", reach)
	}
}
