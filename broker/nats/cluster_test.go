package nats_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

// clusterHarness gives every node the next server, so that publishers and subscribers are at
// different ones.
func clusterHarness(servers []*backend.Server) brokertest.Harness {
	var turn atomic.Int64
	next := func() *backend.Server { return servers[int(turn.Add(1))%len(servers)] }
	all := func(f func(*backend.Server)) func(testing.TB) {
		return func(testing.TB) {
			for _, s := range servers {
				f(s)
			}
		}
	}
	h := brokertest.Harness{
		New:     func(tb testing.TB) broker.Broker { return open(tb, next().URL) },
		Bound:   broker.AtLeast,
		MaxData: maxPayload,
		Stop:    all((*backend.Server).Stop),
		Start:   all((*backend.Server).Start),
		Freezable: func(tb testing.TB) (b broker.Broker, freeze, thaw func()) {
			p := faultproxy.New(tb, next().Addr)
			return open(tb, "nats://"+p.Addr()), func() { p.Hold(faultproxy.Both) }, p.Heal
		},
	}
	if servers[0].Pausable() {
		h.Pause = all((*backend.Server).Pause)
		h.Resume = all((*backend.Server).Resume)
	}
	return h
}

func TestTheDriverDoesWhatABrokerMustInACluster(t *testing.T) {
	long.Only(t)
	brokertest.Run(t, clusterHarness(backend.NATSCluster(t, 3, backend.NATSRoutes{})))
}

// farApart returns two servers whose route is as slow as is said, in both directions, from slow on, and
// breaks with cut until heal.
func farApart(t *testing.T) (servers []*backend.Server, slow func(time.Duration), cut, heal func()) {
	t.Helper()
	var proxies []*faultproxy.Proxy
	servers = backend.NATSCluster(t, 2, backend.NATSRoutes{Via: func(addr string) string {
		proxies = append(proxies, faultproxy.New(t, addr))
		return proxies[len(proxies)-1].Addr()
	}})
	each := func(f func(*faultproxy.Proxy)) {
		for _, p := range proxies {
			f(p)
		}
	}
	slow = func(d time.Duration) {
		each(func(p *faultproxy.Proxy) { p.Delay(faultproxy.Both, d) })
	}
	cut = func() {
		each(func(p *faultproxy.Proxy) { p.Refuse() })
		each(func(p *faultproxy.Proxy) { p.Cut() })
	}
	return servers, slow, cut, func() { each((*faultproxy.Proxy).Heal) }
}

func publishOne(t *testing.T, b broker.Broker, subject, data string) broker.Receipt {
	t.Helper()
	for try := 1; ; try++ {
		reach, err := b.Publish(t.Context(), broker.Message{Subject: subject, Data: []byte(data)})
		if err == nil {
			return reach[0]
		}
		if !slow(err) || try == 5 {
			t.Fatalf("Publish: %v", err)
		}
	}
}

// settled is publishOne for a test that is not about when the answer comes: while none has come in time it
// publishes again.
func settled(t *testing.T, b broker.Broker, subject, data string) broker.Receipt {
	t.Helper()
	for try := 1; ; try++ {
		if reach := publishOne(t, b, subject, data); !late(reach) || try == 5 {
			return reach
		}
	}
}

var one = broker.Receipt{Nodes: 1, Bound: broker.AtLeast}

// late reports whether no answer has come in time. That is honest where the machine has other work; where it has none
// it is a fault.
func late(r broker.Receipt) bool { return r.Bound == broker.Unknown && shared }

// slow reports whether the server has not answered in time, which is as honest there.
func slow(err error) bool { return errors.Is(err, broker.ErrUnavailable) && shared }

// shared says that the machine may have other work.
var shared = long.Limit(time.Second) > time.Second

func TestASubjectIsLiveAtOtherServersWhenSubscribeReturns(t *testing.T) {
	long.Alone(t)
	servers, slow, _, _ := farApart(t)
	n := run(t, open(t, servers[0].URL), make(chan broker.Message, 10))
	p := open(t, servers[1].URL)
	defer p.Close()
	publishOne(t, p, "nobody", "")
	slow(200 * time.Millisecond)

	ownServerIsNotEnough(t, connect(t, servers[0].URL), p)

	for i := range 3 {
		s := "s" + strconv.Itoa(i)
		begin := time.Now()
		n.subscribe(t, s)
		t.Logf("Subscribe took %v over a route of 200ms", time.Since(begin).Round(time.Millisecond))
		if reach := publishOne(t, p, s, s); reach != one && !late(reach) {
			t.Errorf("%s: got %+v, want %+v", s, reach, one)
		}
		if m := receive(t, n.got); string(m.Data) != s {
			t.Errorf("got %q, want %q", m.Data, s)
		}
		n.unsubscribe(t, s)
		begin = time.Now()
		reach := publishOne(t, p, s, "")
		if !reach.Nobody() && !late(reach) {
			t.Errorf("%s, unsubscribed: got %+v", s, reach)
		}
		if took := time.Since(begin); took > long.Limit(100*time.Millisecond) && !late(reach) {
			t.Errorf("that nobody is there took %v", took)
		}
	}
}

// ownServerIsNotEnough shows that what the subscriber's server confirms another does not know yet. Where a busy machine
// publishes only after the route's delay it shows so the next time.
func ownServerIsNotEnough(t *testing.T, raw *natsio.Conn, p broker.Broker) {
	t.Helper()
	var reach broker.Receipt
	for i := range 10 {
		s := "control" + strconv.Itoa(i)
		if _, err := raw.SubscribeSync("tether.s." + s); err != nil {
			t.Fatal(err)
		}
		if err := raw.Flush(); err != nil {
			t.Fatal(err)
		}
		if reach = publishOne(t, p, s, ""); reach.Nobody() {
			return
		}
		if !late(reach) {
			break
		}
	}
	t.Fatalf("got %+v: the route is not slow, and the test shows nothing", reach)
}

func TestAPublisherThatComesLaterIsCountedIn(t *testing.T) {
	t.Parallel()
	servers, _, _, _ := farApart(t)
	n := run(t, open(t, servers[0].URL), make(chan broker.Message, 1000))
	for i := range 20 {
		p := open(t, servers[1].URL)
		s := "s" + strconv.Itoa(i)
		subscribed := make(chan error)
		go func() { subscribed <- errors.Join(n.Subscribe(context.Background(), s)...) }()
		publishOne(t, p, "nobody", "") // it joins meanwhile
		if err := <-subscribed; err != nil {
			t.Fatal(err)
		}
		if reach := settled(t, p, s, s); reach != one {
			t.Errorf("%s: got %+v, want %+v", s, reach, one)
		}
		p.Close()
	}
	if len(n.gaps) > 0 {
		t.Errorf("publishers came and went, and there is a gap: %+v", <-n.gaps)
	}
}

func TestAnIdlePublisherIsCountedInWhereItHasMoved(t *testing.T) {
	long.Alone(t)
	servers := backend.NATSCluster(t, 3, backend.NATSRoutes{})
	n := run(t, open(t, servers[0].URL), make(chan broker.Message, 10))
	p := open(t, servers[1].URL)
	defer p.Close()
	publishOne(t, p, "nobody", "")
	servers[1].Stop()
	if g := receive(t, n.gaps); g.From.After(g.To) { // it had published just before
		t.Errorf("got %+v", g)
	}
	begin := time.Now()
	n.subscribe(t, "s")
	if took := time.Since(begin); took > long.Limit(500*time.Millisecond) {
		t.Errorf("Subscribe took %v: it has waited for a server that is gone", took)
	}
	if reach := settled(t, p, "s", ""); reach != one {
		t.Errorf("got %+v, want %+v", reach, one)
	}
}

func TestWhatDoesNotGetFromServerToServerLiesInAGap(t *testing.T) {
	t.Parallel()
	servers, _, cut, heal := farApart(t)
	n := run(t, open(t, servers[0].URL), make(chan broker.Message, 1000))
	p := run(t, open(t, servers[1].URL), make(chan broker.Message, 1000))
	n.subscribe(t, "s")
	if reach := settled(t, p, "s", ""); reach != one {
		t.Fatalf("got %+v, want %+v", reach, one)
	}
	cut()
	for !publishOne(t, p, "s", "").Nobody() {
		<-time.After(time.Millisecond)
	}
	lost := time.Now()
	for time.Since(lost) < 3*time.Second { // they look for each other twice a second
		publishOne(t, p, "s", "")
	}
	heal()
	backend.AwaitRoutes(t, servers...)
	g := receive(t, n.gaps)
	if g.From.After(lost) || g.To.Before(lost) || g.Subjects != nil {
		t.Errorf("got %+v, want one around %v", g, lost)
	}
	if reach := settled(t, p, "s", "again"); reach != one {
		t.Errorf("got %+v, want %+v", reach, one)
	}
}

// trail is what one publisher has published on one subject, one message each millisecond.
type trail struct {
	subject string
	sent    []sent
	stop    context.CancelFunc
	done    sync.WaitGroup
}

type sent struct {
	before, after time.Time
	reach         broker.Receipt
	err           error
}

func leave(t *testing.T, b broker.Broker, subject string) *trail {
	tr := &trail{subject: subject}
	ctx, stop := context.WithCancel(context.Background())
	tr.stop = stop
	t.Cleanup(func() { stop(); tr.done.Wait() }) // after a test that failed before the end
	tr.done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			s := sent{before: time.Now()}
			reach, err := b.Publish(context.Background(), broker.Message{Subject: subject, Data: []byte(strconv.Itoa(i))})
			s.after, s.reach, s.err = time.Now(), reach[0], err
			tr.sent = append(tr.sent, s)
		}
	})
	return tr
}

// end ends the trail with a message that arrives.
func (tr *trail) end(t *testing.T, b broker.Broker) {
	t.Helper()
	tr.stop()
	tr.done.Wait()
	deadline := time.Now().Add(20 * time.Second)
	for {
		reach, err := b.Publish(t.Context(), broker.Message{Subject: tr.subject, Data: []byte("end")})
		if err == nil && !reach[0].Nobody() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %+v, %v", tr.subject, reach, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// check checks what a node has of a trail: in order, nothing twice, and what is missing in a gap.
func (tr *trail) check(t *testing.T, who string, got []string, gaps []broker.Gap) {
	t.Helper()
	have, last := make(map[int]bool), -1
	for _, data := range got {
		i, err := strconv.Atoi(data)
		if err != nil {
			continue
		}
		if i <= last {
			t.Errorf("%s, %s: %d arrived after %d", who, tr.subject, i, last)
		}
		last, have[i] = i, true
	}
	failed, lost, secret, wrong := 0, 0, 0, 0
	for i, s := range tr.sent {
		switch {
		case have[i] && s.err == nil && s.reach.Nobody():
			wrong++
		case have[i]:
		case s.err != nil:
			failed++
		case within(gaps, s):
			lost++
		default:
			if secret++; secret == 1 {
				t.Errorf("%s, %s: %d, published %v to %v with %+v, is lost and in no gap of %s",
					who, tr.subject, i, s.before.Format("05.000"), s.after.Format("05.000"), s.reach, describe(gaps))
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%s, %s: %d messages arrived, and nobody was said to be there", who, tr.subject, wrong)
	}
	t.Logf("%s, %s: of %d messages %d arrived, %d were lost in a gap, %d failed; %s", who, tr.subject, len(tr.sent), len(have), lost, failed, describe(gaps))
}

func within(gaps []broker.Gap, s sent) bool {
	for _, g := range gaps {
		if !s.after.Before(g.From) && !s.before.After(g.To) {
			return true
		}
	}
	return false
}

func describe(gaps []broker.Gap) string {
	var b strings.Builder
	for _, g := range gaps {
		fmt.Fprintf(&b, "[%s to %s: %v]", g.From.Format("05.000"), g.To.Format("05.000"), g.Cause)
	}
	return b.String()
}

// crowd is a node and a publisher at each server, all subscribed to what all publish.
type crowd struct {
	nodes      []node
	publishers []broker.Broker
	trails     []*trail
}

func gather(t *testing.T, servers []*backend.Server) *crowd {
	t.Helper()
	c := new(crowd)
	var names []string
	for i := range servers {
		names = append(names, "trail"+strconv.Itoa(i))
	}
	for _, s := range servers {
		n := run(t, open(t, s.URL), make(chan broker.Message, 1<<17))
		n.subscribe(t, names...)
		c.nodes = append(c.nodes, n)
	}
	for i, s := range servers {
		p := open(t, s.URL)
		t.Cleanup(func() { p.Close() })
		c.publishers = append(c.publishers, p)
		c.trails = append(c.trails, leave(t, p, names[i]))
	}
	for _, n := range c.nodes {
		for len(n.got) < 300 {
			<-time.After(time.Millisecond)
		}
	}
	return c
}

// moved waits until the node has lost its server and is back.
func (n node) moved(t *testing.T) {
	t.Helper()
	if err := receive(t, n.states); err == nil {
		t.Fatal("State: got nil, want an error")
	}
	if err := receive(t, n.states); err != nil {
		t.Fatalf("State: got %v, want nil", err)
	}
}

func (c *crowd) check(t *testing.T, lostServer int) {
	t.Helper()
	for i, tr := range c.trails {
		tr.end(t, c.publishers[i])
	}
	<-time.After(long.Limit(time.Second)) // gaps are told with the next beat
	for i, n := range c.nodes {
		got := make(map[string][]string)
		for len(n.got) > 0 {
			m := <-n.got
			got[m.Subject] = append(got[m.Subject], string(m.Data))
		}
		var gaps []broker.Gap
		for len(n.gaps) > 0 {
			gaps = append(gaps, <-n.gaps)
		}
		if i == lostServer && len(gaps) == 0 {
			t.Error("the node whose server died has no gap")
		}
		for _, tr := range c.trails {
			tr.check(t, "node "+strconv.Itoa(i), got[tr.subject], gaps)
		}
	}
}

func TestTheDeathOfAServerUnderLoadLosesNothingInSecret(t *testing.T) {
	long.Alone(t)
	for kind, get := range map[string]func(testing.TB, int, backend.NATSRoutes) []*backend.Server{
		"Servers": backend.NATSCluster, "StandIns": backend.NATSClusterStandIn,
	} {
		t.Run(kind, func(t *testing.T) {
			long.Alone(t)
			servers := get(t, 3, backend.NATSRoutes{})
			c := gather(t, servers)
			begin := time.Now()
			servers[1].Stop()
			c.nodes[1].moved(t)
			took := time.Since(begin)
			t.Logf("the node is at another server after %v", took.Round(time.Millisecond))
			if took > long.Limit(3*time.Second) {
				t.Errorf("it took %v", took)
			}
			c.check(t, 1)
		})
	}
}

func TestAServerThatSendsItsClientsAwayLosesNothingInSecret(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "nats.conf")
	write(t, config, []byte("lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"100ms\"\n"))
	servers := backend.NATSCluster(t, 3, backend.NATSRoutes{Args: []string{"-c", config}})
	c := gather(t, servers)
	servers[1].LameDuck()
	c.nodes[1].moved(t)
	c.check(t, 1)
}

func TestStrangersOverASlowRouteLoseNothingInSecret(t *testing.T) {
	t.Parallel()
	servers, slow, _, _ := farApart(t)
	slow(150 * time.Millisecond)
	p := open(t, servers[1].URL)
	defer p.Close()
	joined := make(chan error)
	go func() {
		_, err := p.Publish(context.Background(), broker.Message{Subject: "nobody"})
		joined <- err
	}()
	n := run(t, open(t, servers[0].URL), make(chan broker.Message, 1<<16))
	n.subscribe(t, "s")
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	c := &crowd{nodes: []node{n}, publishers: []broker.Broker{p}, trails: []*trail{leave(t, p, "s")}}
	for len(n.got) < 3 {
		<-time.After(time.Millisecond)
	}
	c.check(t, -1)
}

func TestOneServerOfTheURLIsEnoughToFindTheOthers(t *testing.T) {
	t.Parallel()
	servers := backend.NATSCluster(t, 3, backend.NATSRoutes{})
	n := run(t, open(t, servers[0].URL), make(chan broker.Message, 1000))
	p := open(t, "nats://"+backend.FreeAddress(t)+","+servers[2].Addr+","+servers[1].Addr)
	defer p.Close()
	n.subscribe(t, "s")
	servers[0].Stop()
	n.moved(t)
	for i := 1; i < 3; i++ {
		servers[i].Restart()
		for {
			reach, err := p.Publish(t.Context(), broker.Message{Subject: "s"})
			if err == nil && reach[0] == one {
				break
			}
			if err != nil && !errors.Is(err, broker.ErrUnavailable) {
				t.Fatal(err)
			}
		}
	}
}

func TestWhatComesOnASecondWayIsNotDelivered(t *testing.T) {
	t.Parallel()
	s := backend.NATS(t)
	n := run(t, open(t, s.URL), make(chan broker.Message, 10))
	n.subscribe(t, "s", "r")
	conn := connect(t, s.URL)
	mine, other := natsio.NewInbox(), natsio.NewInbox()
	for _, m := range []struct{ subject, inbox, number, data string }{
		{"s", mine, "1", "a"}, {"r", mine, "2", "b"},
		{"s", mine, "1", "once more"}, {"r", mine, "2", "once more"}, // the server that passed them on is dead
		{"s", other, "1", "c"}, // of another publisher
		{"s", mine, "z", "d"}, {"r", mine, "y", "held up"}, {"s", mine, "10", "e"},
	} {
		if err := conn.PublishRequest("tether.s."+m.subject, m.inbox+"."+m.number, []byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	got := make(map[string]bool)
	for range 5 {
		got[string(receive(t, n.got).Data)] = true
	}
	if !maps.Equal(got, map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": true}) || len(n.got) > 0 {
		t.Errorf("got %v and %d more", got, len(n.got))
	}
}

func TestAQuestionIsNotDelivered(t *testing.T) {
	t.Parallel()
	s := backend.NATS(t)
	n := run(t, open(t, s.URL), make(chan broker.Message, 10))
	n.subscribe(t, "s")
	conn := connect(t, s.URL)
	if err := conn.PublishRequest("tether.s.s", natsio.NewInbox()+".Q", nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Publish("tether.s.s", []byte("after it")); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, n.got); string(m.Data) != "after it" {
		t.Errorf("got %q, want %q", m.Data, "after it")
	}
}
