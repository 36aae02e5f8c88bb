package nats_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/nats"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

// withLog is the URL of a server with a log.
func withLog(server, prefix string, o broker.LogOptions) string {
	query := url.Values{"log": {o.Age.String()}, "prefix": {prefix}}
	if o.Age == 0 {
		query.Del("log")
	}
	if o.Length > 0 {
		query.Set("log_length", fmt.Sprint(o.Length))
	}
	if o.Bytes > 0 {
		query.Set("log_bytes", fmt.Sprint(o.Bytes))
	}
	return server + "?" + query.Encode()
}

func newPrefix() string { return natsio.NewInbox()[len("_INBOX."):] }

var kept = broker.LogOptions{Age: time.Hour}

func logContract(t *testing.T, s *backend.Server) {
	prefixes := make(map[broker.LogOptions]string) // brokers that share one keep the same
	brokertest.RunLog(t, func(t *testing.T, o broker.LogOptions) broker.Broker {
		if o.Bytes > 0 {
			t.Skip("the bytes of one subject are not bounded")
		}
		if prefixes[o] == "" {
			prefixes[o] = newPrefix()
		}
		return open(t, withLog(s.URL, prefixes[o], o))
	})
}

func TestLogContract(t *testing.T)          { logContract(t, backend.JetStream(t, t.TempDir())) }
func TestLogContractInProcess(t *testing.T) { logContract(t, backend.JetStreamStandIn(t, t.TempDir())) }

// TestTheDriverWithALogDoesWhatABrokerMust has the server killed, too.
func TestTheDriverWithALogDoesWhatABrokerMust(t *testing.T) {
	long.Alone(t)
	s := backend.JetStream(t, t.TempDir())
	h := harness(s)
	query := "?log=1h&prefix=" + newPrefix()
	h.New = func(tb testing.TB) broker.Broker { return open(tb, s.URL+query) }
	h.Freezable = func(tb testing.TB) (b broker.Broker, freeze, thaw func()) {
		p := faultproxy.New(tb, s.Addr)
		return open(tb, "nats://"+p.Addr()+query), func() { p.Hold(faultproxy.Both) }, p.Heal
	}
	if long.Or(true, false) { // outages take long: the suite has them where all tests run
		h.Stop, h.Start, h.Pause, h.Resume, h.Freezable = nil, nil, nil, nil, nil
	}
	brokertest.Run(t, h)
}

// logs is a broker with its log.
type logs struct {
	broker.Broker
	broker.Log
}

func logged(t *testing.T, b broker.Broker) logs {
	t.Helper()
	t.Cleanup(func() { b.Close() })
	l, err := b.(broker.Logger).Log()
	if err != nil {
		t.Fatal(err)
	}
	return logs{b, l}
}

func (l logs) head(t *testing.T) uint64 {
	t.Helper()
	for {
		head, err := l.Head(t.Context())
		if err == nil {
			return head
		}
		if !errors.Is(err, broker.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

// add publishes a message of a log, until the server takes it.
func (l logs) add(t *testing.T, name, data string) {
	t.Helper()
	for {
		_, err := l.Publish(t.Context(), broker.Message{Subject: name, Data: []byte(data), Log: name, Place: 1})
		if err == nil {
			return
		}
		if !errors.Is(err, broker.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

// read returns what is in a log behind a place, or why not.
func (l logs) read(t *testing.T, name string, after uint64) string {
	t.Helper()
	for {
		msgs, _, err := l.Read(t.Context(), []broker.Part{{Log: name, After: after}})
		switch {
		case errors.Is(err, broker.ErrForgotten):
			return "forgotten"
		case err == nil:
			var all []string
			for _, m := range msgs {
				all = append(all, string(m.Data))
			}
			return strings.Join(all, " ")
		case !errors.Is(err, broker.ErrUnavailable):
			t.Fatal(err)
		}
	}
}

// TestAKilledServerIsAGapOfTheLog has it keep what it had, or not.
func TestAKilledServerIsAGapOfTheLog(t *testing.T) {
	for name, keeps := range map[string]bool{"storage kept": true, "storage lost": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old := t.TempDir()
			s := backend.JetStream(t, old)
			b := open(t, withLog(s.URL, "tether", kept))
			l := logged(t, b)
			n := run(t, b, make(chan broker.Message, 100))
			n.subscribe(t, "x")
			before := l.head(t)
			l.add(t, "x", "1")
			if got := l.read(t, "x", before); got != "1" {
				t.Fatalf("read %q", got)
			}
			s.Stop()
			if !keeps {
				empty(t, old)
			}
			s.Start()
			receive(t, n.gaps)
			for receive(t, n.states) != nil {
			}
			if got := l.read(t, "x", before); got != "forgotten" {
				t.Errorf("over the restart: %q", got)
			}
			after := l.head(t)
			if after <= before+1 {
				t.Errorf("the head was %d and is %d", before, after)
			}
			l.add(t, "x", "2")
			if got := l.read(t, "x", after); got != "2" {
				t.Errorf("behind the restart: %q", got)
			}
			receive(t, n.got)
			if m := receive(t, n.got); string(m.Data) != "2" || m.Place <= after {
				t.Errorf("got %q at %d, the head was %d", m.Data, m.Place, after)
			}
			if m := logged(t, open(t, withLog(s.URL, "tether", kept))); m.read(t, "x", after) != "2" {
				t.Error("another one reads something else")
			}
		})
	}
}

// TestStreamsThatAreDeletedAreAGap has two nodes that run, and one server all the time.
func TestStreamsThatAreDeletedAreAGap(t *testing.T) {
	for _, stream := range []string{"tether-log", "tether-sessions"} {
		t.Run(stream, func(t *testing.T) {
			t.Parallel()
			s := backend.JetStreamStandIn(t, t.TempDir())
			var nodes [2]node
			for i := range nodes {
				nodes[i] = run(t, open(t, withLog(s.URL, "tether", kept)), make(chan broker.Message, 100))
				nodes[i].subscribe(t, "x")
			}
			l := logged(t, nodes[0].Broker)
			before := l.head(t)
			l.add(t, "x", "1")
			js, err := jetstream.New(connect(t, s.URL))
			if err != nil {
				t.Fatal(err)
			}
			if err := js.DeleteStream(t.Context(), stream); err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				receive(t, n.gaps)
				for receive(t, n.states) != nil {
				}
			}
			if got := l.read(t, "x", before); got != "forgotten" {
				t.Errorf("over the end of the stream: %q", got)
			}
			after := l.head(t)
			logged(t, nodes[1].Broker).add(t, "x", "2")
			if got := l.read(t, "x", after); got != "2" {
				t.Errorf("behind it: %q", got)
			}
			for i, n := range nodes {
				receive(t, n.got)
				if m := receive(t, n.got); string(m.Data) != "2" || m.Place <= after {
					t.Errorf("node %d got %q at %d, the head was %d", i, m.Data, m.Place, after)
				}
			}
		})
	}
}

// TestWhatAStrangerSaysInTheLogIsAGap to the nodes that are subscribed there, and is not delivered.
func TestWhatAStrangerSaysInTheLogIsAGap(t *testing.T) {
	s := backend.JetStreamStandIn(t, t.TempDir())
	n := run(t, open(t, withLog(s.URL, "tether", kept)), make(chan broker.Message, 10))
	n.subscribe(t, "x")
	l := logged(t, n.Broker)
	stranger := connect(t, s.URL)
	for _, m := range []*natsio.Msg{
		{Subject: "tether.l.0.s.x", Data: []byte("to the stream")},
		{Subject: "tether.r.s.x", Data: []byte("as from it"), Header: natsio.Header{"Nats-Sequence": {"1000"}}},
	} {
		if err := stranger.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		receive(t, n.gaps)
		l.add(t, "x", string(m.Data))
		if got := receive(t, n.got); string(got.Data) != string(m.Data) || got.Place == 0 {
			t.Errorf("got %q at %d behind the gap", got.Data, got.Place)
		}
	}
}

func TestWhatIsTooOldIsForgotten(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	b, err := nats.New(connect(t, s.URL, nats.ConnectOptions(nil)...), nats.Options{Log: broker.LogOptions{Age: 3 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	l := logged(t, b)
	before := l.head(t)
	l.add(t, "x", "1")
	for l.read(t, "x", before) != "forgotten" {
		<-time.After(50 * time.Millisecond)
	}
	after := l.head(t)
	l.add(t, "x", "2")
	if got := l.read(t, "x", after); got != "2" && got != "forgotten" { // where the machine was slow
		t.Errorf("behind it: %q", got)
	}
}

// TestWhatTheBytesAreTooManyForIsForgotten of a log that is not the one that has them.
func TestWhatTheBytesAreTooManyForIsForgotten(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	l := logged(t, open(t, withLog(s.URL, "tether", broker.LogOptions{Age: time.Hour, Bytes: 1 << 20})))
	before := l.head(t)
	l.add(t, "quiet", "1")
	for i := range 12 { // and 100 kB each
		if i == 8 && l.read(t, "quiet", before) != "1" {
			t.Error("it is forgotten before there are too many bytes")
		}
		l.add(t, "loud", strings.Repeat("x", 100_000))
	}
	if got := l.read(t, "quiet", before); got != "forgotten" {
		t.Errorf("behind the bytes: %q", got)
	}
	after := l.head(t)
	l.add(t, "quiet", "2")
	if got := l.read(t, "quiet", after); got != "2" {
		t.Errorf("after it: %q", got)
	}
}

// TestALogIsNotForgottenForWhatOthersDrop has others drop by number, and by time to live.
func TestALogIsNotForgottenForWhatOthersDrop(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	l := logged(t, open(t, withLog(s.URL, "tether", broker.LogOptions{Age: time.Hour, Length: 2})))
	before := l.head(t)
	l.add(t, "quiet", "1")
	for range 20 {
		l.add(t, "loud", "x")
		if _, err := l.Publish(t.Context(), broker.Message{Subject: "volatile", Place: 1}); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(connect(t, s.URL))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "tether-log")
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := stream.GetLastMsgForSubject(t.Context(), "tether.l.0.>"); errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if got := l.read(t, "loud", before); got != "forgotten" {
		t.Errorf("the loud one: %q", got)
	}
	if got := l.read(t, "quiet", before); got != "1" {
		t.Errorf("the quiet one: %q", got)
	}
}

// TestLongNamesAndManyMessagesAreRead has names that become hashes, and more than is asked for at once.
func TestLongNamesAndManyMessagesAreRead(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	l := logged(t, open(t, withLog(s.URL, "tether", kept)))
	name := strings.Repeat("lang.ä*>", 100)
	before := l.head(t)
	var all []string
	for i := range 30 {
		var msgs []broker.Message
		for j := range 50 {
			all = append(all, fmt.Sprint(i, ",", j))
			msgs = append(msgs, broker.Message{Subject: name, Data: []byte(all[len(all)-1]), Log: name, Place: 1})
		}
		if _, err := l.Publish(t.Context(), msgs...); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.read(t, name, before); got != strings.Join(all, " ") {
		t.Errorf("read %d bytes of %d", len(got), len(strings.Join(all, " ")))
	}
	msgs, _, err := l.Read(t.Context(), []broker.Part{{Log: name, After: before}})
	if err != nil || msgs[0].Subject != name || msgs[0].Log != name {
		t.Errorf("%v, %+v", err, msgs[:1])
	}
}

// TestWhatHasNoPlaceComesBehindWhatHasOne of the same publisher and subject, and before what comes next.
func TestWhatHasNoPlaceComesBehindWhatHasOne(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	n := run(t, open(t, withLog(s.URL, "tether", kept)), make(chan broker.Message, 1000))
	n.subscribe(t, "x")
	p := open(t, withLog(s.URL, "tether", kept))
	defer p.Close()
	for i := range 50 {
		var msgs []broker.Message
		for j := range 6 {
			m := broker.Message{Subject: "x", Data: fmt.Append(nil, 6*i+j)}
			if j%3 != 0 {
				m.Place = 1
			}
			msgs = append(msgs, m)
		}
		if _, err := p.Publish(t.Context(), msgs...); err != nil && !slow(err) {
			t.Fatal(err)
		}
	}
	for last := -1; last < 299; {
		m := receive(t, n.got)
		var i int
		if fmt.Sscan(string(m.Data), &i); i <= last || (m.Place != 0) != (i%3 != 0) {
			t.Fatalf("got %d at %d behind %d", i, m.Place, last)
		}
		last = i
	}
}

// TestTheReceiptOfNobodyIsUnknownWithALog if the message has a place; another one has its zero.
func TestTheReceiptOfNobodyIsUnknownWithALog(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	b := open(t, withLog(s.URL, "tether", kept))
	defer b.Close()
	reach, err := b.Publish(t.Context(), broker.Message{Subject: "x", Place: 1, Log: "x"}, broker.Message{Subject: "x"})
	if err != nil || reach[0] != unknown || reach[1] != (broker.Receipt{}) && !late(reach[1]) {
		t.Errorf("got %v, %v", reach, err)
	}
}

// TestARecordHasOneWriter has many take the same record over at once.
func TestARecordHasOneWriter(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	l := logged(t, open(t, withLog(s.URL, "tether", kept)))
	for round := range 10 {
		key := fmt.Sprint(round)
		if ok, err := l.Save(t.Context(), key, "", broker.Record{Owner: "a", Version: 1}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		var taken atomic.Int32
		var group sync.WaitGroup
		for i := range 5 {
			group.Go(func() { // waited for below
				ok, err := l.Save(t.Context(), key, "a", broker.Record{Owner: fmt.Sprint("b", i), Version: 2})
				if err != nil {
					t.Error(err)
				}
				if ok {
					taken.Add(1)
				}
			})
		}
		group.Wait()
		if n := taken.Load(); n != 1 {
			t.Errorf("%d have taken the record over", n)
		}
	}
}

// TestALogThatCannotBeHadIsAnErrorAtOnce that says why.
func TestALogThatCannotBeHadIsAnErrorAtOnce(t *testing.T) {
	dir := t.TempDir()
	users := func(deny string) string {
		file := filepath.Join(t.TempDir(), "nats.conf")
		write(t, file, []byte(fmt.Sprintf(`authorization: { users: [ { user: u, password: p, permissions: { publish: { deny: [%q] } } } ] }`, deny)))
		return file
	}
	accounts := filepath.Join(t.TempDir(), "nats.conf")
	write(t, accounts, []byte(`accounts: { A: { jetstream: enabled, users: [ { user: a, password: p } ] }, B: { users: [ { user: u, password: p } ] } }`))
	small := filepath.Join(t.TempDir(), "nats.conf")
	write(t, small, []byte(`jetstream: { max_file_store: 10MB }`))
	for name, c := range map[string]struct {
		server *backend.Server
		want   string
	}{
		"no JetStream":            {backend.NATSStandIn(t), "--jetstream"},
		"none for the account":    {backend.JetStreamStandIn(t, t.TempDir(), "-c", accounts), "account"},
		"not enough storage":      {backend.JetStreamStandIn(t, t.TempDir(), "-c", small), "storage"},
		"a cluster":               {backend.JetStreamStandIn(t, t.TempDir(), "--cluster", "nats://127.0.0.1:-1", "--cluster_name", "c", "--server_name", "s", "--routes", "nats://127.0.0.1:1"), "cluster"},
		"the stream is refused":   {backend.JetStreamStandIn(t, t.TempDir(), "-c", users("$JS.API.STREAM.CREATE.>")), "$JS.API.STREAM.CREATE.tether-log"},
		"the question is refused": {backend.JetStreamStandIn(t, t.TempDir(), "-c", users("$SYS.REQ.USER.INFO")), "$SYS.REQ.USER.INFO"},
		"the storage is refused":  {backend.JetStreamStandIn(t, t.TempDir(), "-c", users("tether.k.>")), "tether.k.run"},
		"it is kept for less":     {another(t, dir), "log in the URL is 30m0s, not 1h0m0s"},
		"fewer records are kept":  {fewer(t), "log_records in the URL is 1000, not 268435456"},
		"another stream has it":   {taken(t), "subjects"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(withLog("nats://u:p@"+c.server.Addr, "tether", kept))
			if err != nil {
				t.Fatal(err)
			}
			b, err := nats.Open(t.Context(), u)
			if err == nil {
				b.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open: %v; want something of %s", err, c.want)
			}
		})
	}
}

// TestWhatTheStreamDoesNotStoreFails for those who publish it, and is not delivered. Others go on.
func TestWhatTheStreamDoesNotStoreFails(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	write(t, file, []byte(`accounts: { A: { jetstream: { max_file: 3MB }, users: [ { user: u, password: p } ] } }`))
	s := backend.JetStreamStandIn(t, t.TempDir(), "-c", file)
	at := withLog("nats://u:p@"+s.Addr, "tether", broker.LogOptions{Age: time.Hour, Bytes: 2 << 20}) + "&log_records=100000"
	n := run(t, open(t, at), make(chan broker.Message, 1000))
	n.subscribe(t, "x")
	l := logged(t, n.Broker)
	full := make([]byte, 300_000)
	js, err := jetstream.New(connect(t, "nats://u:p@"+s.Addr))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "others", Subjects: []string{"others"}}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := js.Publish(t.Context(), "others", full); err != nil {
			t.Fatal(err)
		}
	}
	sent := 0
	for {
		m := broker.Message{Subject: "x", Data: full, Log: "x", Place: 1}
		reach, err := l.Publish(t.Context(), m, broker.Message{Subject: "x", Data: []byte("others")})
		if err != nil && !errors.Is(err, broker.ErrRefused) {
			if slow(err) {
				continue
			}
			t.Fatal(err)
		}
		if reach[1] != one && !late(reach[1]) {
			t.Errorf("what does not go through the stream: %v", reach[1])
		}
		if err != nil {
			break
		}
		sent++
	}
	for got := 0; ; {
		m := receive(t, n.got)
		if string(m.Data) != "others" {
			got++
		} else if got >= sent {
			break
		}
	}
	if sent == 0 {
		t.Error("nothing was stored at all")
	}
}

// TestTheRightsThatALogNeeds are those of docs/brokers.md.
func TestTheRightsThatALogNeeds(t *testing.T) {
	page, err := os.ReadFile("../../docs/brokers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "- A user with restricted permissions needs to publish to `$SYS")
	text, _, _ = strings.Cut(text, "\n- ")
	rights := []string{"tether.>", "_INBOX.>", "$SYS.REQ.USER.INFO"}
	for _, r := range regexp.MustCompile("`([$]JS[^`]*)`").FindAllStringSubmatch(text, -1) {
		for _, stream := range []string{"tether-log", "tether-sessions"} {
			rights = append(rights, strings.ReplaceAll(r[1], "<stream>", stream))
		}
	}
	file := filepath.Join(t.TempDir(), "nats.conf")
	write(t, file, fmt.Appendf(nil, `authorization: { users: [ { user: u, password: p, permissions: { publish: [%s], subscribe: ["tether.>", "_INBOX.>"] } } ] }`, quoted(rights)))
	s := backend.JetStreamStandIn(t, t.TempDir(), "-c", file)
	b := open(t, withLog("nats://u:p@"+s.Addr, "tether", kept))
	n := run(t, b, make(chan broker.Message, 10))
	n.subscribe(t, "x")
	l := logged(t, b)
	before := l.head(t)
	l.add(t, "x", "1")
	if got := l.read(t, "x", before); got != "1" {
		t.Errorf("read %q", got)
	}
	if ok, err := l.Save(t.Context(), "key", "", broker.Record{Owner: "a", Version: 1}); !ok || err != nil {
		t.Errorf("Save: %v, %v", ok, err)
	}
	if err := l.Drop(t.Context(), "key", "a"); err != nil {
		t.Error(err)
	}
	if r, err := l.Load(t.Context(), "key"); r.Owner != "" || err != nil {
		t.Errorf("Load: %+v, %v", r, err)
	}
}

// another returns a server with a log of half an hour.
func another(t *testing.T, dir string) *backend.Server {
	s := backend.JetStreamStandIn(t, dir)
	open(t, withLog(s.URL, "tether", broker.LogOptions{Age: 30 * time.Minute})).Close()
	return s
}

// fewer returns a server with records of a kilobyte.
func fewer(t *testing.T) *backend.Server {
	s := backend.JetStreamStandIn(t, t.TempDir())
	open(t, withLog(s.URL, "tether", kept)+"&log_records=1000").Close()
	return s
}

// taken returns a server with a stream that has the name.
func taken(t *testing.T) *backend.Server {
	s := backend.JetStreamStandIn(t, t.TempDir())
	js, err := jetstream.New(connect(t, s.URL))
	if err == nil {
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "tether-log", Subjects: []string{"x"}, MaxAge: kept.Age, MaxBytes: 1 << 30, MaxMsgsPerSubject: 10_001})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnOldServerKeepsNoLog(t *testing.T) {
	s := backend.NATS(t)
	conn := connect(t, s.URL)
	if version := conn.ConnectedServerVersion(); !strings.HasPrefix(version, "2.9.") {
		t.Skipf("this server is %s", version)
	}
	u, err := url.Parse(withLog(s.URL, "tether", kept))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nats.Open(t.Context(), u); err == nil || !strings.Contains(err.Error(), "needs nats-server 2.11 or later, and this one is 2.9.") {
		t.Errorf("Open: %v", err)
	}
}

// TestAStreamThatSomebodyChangesIsOfNoUse until it is what it was.
func TestAStreamThatSomebodyChangesIsOfNoUse(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	n := run(t, open(t, withLog(s.URL, "tether", kept)), make(chan broker.Message, 100))
	js, err := jetstream.New(connect(t, s.URL))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "tether-log")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	change := func(age time.Duration) {
		config.MaxAge = age
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	change(30 * time.Minute)
	for {
		if err := receive(t, n.states); err != nil && strings.Contains(err.Error(), "log in the URL is 30m0s, not 1h0m0s") {
			break
		}
	}
	if _, err := n.Publish(t.Context(), broker.Message{Subject: "x", Place: 1}); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Publish: %v", err)
	}
	change(time.Hour)
	for receive(t, n.states) != nil {
	}
	receive(t, n.gaps)
}

// BenchmarkLog publishes messages that a node gets, from one caller and from many, without a log and with one.
func BenchmarkLog(b *testing.B) {
	s := backend.JetStream(b, b.TempDir())
	for _, callers := range []int{1, 64} {
		for _, log := range []string{"", "?log=5m"} {
			b.Run(fmt.Sprintf("callers=%d/log=%v", callers, log != ""), func(b *testing.B) {
				out, in := open(b, s.URL+log), open(b, s.URL+log)
				defer out.Close()
				defer in.Close()
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error)
				go func() { ended <- in.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}}) }() // waited for below
				defer func() {
					cancel()
					<-ended
				}()
				for _, err := range in.Subscribe(ctx, "x") {
					b.Fatal(err)
				}
				m := broker.Message{Subject: "x", Data: make([]byte, 200)}
				if log != "" {
					m.Log, m.Place = "x", 1
				}
				b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
				publish := func() {
					if r, err := out.Publish(ctx, m); err != nil || r[0].Nodes != 1 {
						b.Errorf("%v, %v", r, err)
					}
				}
				b.ResetTimer()
				if callers == 1 {
					for b.Loop() {
						publish()
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						publish()
					}
				})
			})
		}
	}
}

// empty removes what is in a directory.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		t.Fatal(err)
	}
}
