package redis_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/long"
)

// secure is TLS in both directions, and a user with the rights that docs/brokers.md names, on the
// channels of these tests.
func secure(t *testing.T) *backend.Security {
	return backend.Secure(t, "resetchannels", "&user:*", "&{*}user:*", "resetkeys", "~tether:nodes*", "-@all",
		"+subscribe", "+unsubscribe", "+publish", "+ping", "+info", "+time", "+zadd", "+zrem",
		"+zrangebyscore", "+pexpire", "+client|info", "+client|list", "+client|kill", "+ssubscribe", "+sunsubscribe",
		"+spublish", "+asking", "+cluster|info", "+cluster|slots")
}

func TestAClusterWithTLSAndUsersThroughReshardingAndAFailover(t *testing.T) {
	long.Only(t)
	s := secure(t)
	c := backend.SecureCluster(t, backend.RedisProduct, s, 1)
	l := startLoad(t, opened(t, c.URL), opened(t, c.URL), 60)
	at := redis.PartitionSlots()
	for _, slot := range at[:20] {
		if err := c.MoveSlot(slot, 0, 1); err != nil {
			t.Fatal(err)
		}
	}
	l.awaitAll()
	c.Nodes[2].Stop()
	l.awaitState(false)
	l.awaitState(true)
	l.awaitAll()
	l.finish()
	l.wantSomeSubjects()
}

func TestSentinelsWithTLSAndUsersThroughAFailover(t *testing.T) {
	long.Only(t)
	s := backend.SecureSentinels(t, backend.RedisProduct, secure(t))
	l := startLoad(t, opened(t, s.URL), opened(t, s.URL), 20)
	s.Nodes[0].Stop()
	l.awaitState(false)
	l.awaitState(true)
	l.finish()
}

// openAny opens a URL that may have several hosts.
func openAny(rawURL string) (broker.Broker, error) {
	mux := broker.Mux{}
	for _, kind := range []string{"redis", "redis+sentinel", "redis+cluster"} {
		mux[kind], mux[strings.Replace(kind, "redis", "rediss", 1)] = redis.Open, redis.Open
	}
	return mux.Open(context.Background(), rawURL)
}

func TestWhatIsWrongWithTLSOrAPasswordIsNamedWithWhatToDo(t *testing.T) {
	s := secure(t)
	const escaped = "s3cret+%2F%40%3A"
	long.Only(t)
	kinds := map[string]string{
		"one server": backend.SecureRedis(t, backend.RedisProduct, s).URL,
		"Sentinels":  backend.SecureSentinels(t, backend.RedisProduct, s).URL,
		"a Cluster":  backend.SecureCluster(t, backend.RedisProduct, s, 0).URL,
	}
	plain := backend.Redis(t)
	for kind, url := range kinds {
		if !strings.Contains(url, escaped) {
			t.Fatalf("the password is not in %s", url)
		}
		without := func(key string) string { // and its value
			before, rest, _ := strings.Cut(url, key+"=")
			_, rest, _ = strings.Cut(rest, "&")
			return strings.TrimSuffix(before+rest, "&")
		}
		for _, c := range []struct{ name, url, want string }{
			{"nothing", url, ""},
			{"a wrong password", strings.Replace(url, escaped, "wr0ng", 1), "WRONGPASS"},
			{"a wrong password", strings.Replace(url, escaped, "wr0ng", 1), "check those in the URL"},
			{"a wrong user", strings.Replace(url, "tether:", "nobody:", 1), "WRONGPASS"},
			{"no password", strings.Replace(url, "tether:"+escaped+"@", "", 1), "NOAUTH"},
			{"no password", strings.Replace(url, "tether:"+escaped+"@", "", 1), "put user and password|sentinel_auth=true"},
			{"a foreign CA", strings.Replace(url, "ca.pem", "foreign.pem", 1), "ca=FILE"},
			{"no CA", without("ca"), "ca=FILE"},
			{"no certificate of ours", strings.TrimSuffix(strings.Split(url, "&cert=")[0], "&"), "cert=FILE&key=FILE"},
			{"no TLS", strings.Replace(strings.Split(url, "?")[0], "rediss", "redis", 1), "the scheme is rediss"},
			{"no such file", strings.Replace(url, "ca.pem", "none.pem", 1), "none.pem"},
		} {
			b, err := openAny(c.url)
			if err == nil {
				b.Close()
			}
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s, %s: %v", kind, c.name, err)
			case c.want == "":
			case err == nil:
				t.Errorf("%s, %s: it was opened", kind, c.name)
			case !containsAny(err.Error(), c.want):
				t.Errorf("%s, %s: got %v, want a reason with %q", kind, c.name, err, c.want)
			}
			if err != nil && containsAny(err.Error(), "s3cret|wr0ng|adm1n") {
				t.Errorf("%s, %s: a password in %v", kind, c.name, err)
			}
		}
	}
	for url, want := range map[string]string{
		"rediss://" + plain.Addr:                                          "does not speak TLS",
		"redis://:wr0ng@" + plain.Addr:                                    "it has no password",
		"redis+cluster://" + plain.Addr:                                   "it is a server of its own",
		strings.Replace(kinds["Sentinels"], "/main", "/m", 1):             `"m"`,
		strings.Replace(kinds["Sentinels"], "sentinel_auth=true&", "", 1): "sentinel_auth=true",
	} {
		b, err := openAny(url)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || containsAny(err.Error(), "s3cret|wr0ng") {
			t.Errorf("got %v, want a reason with %q", err, want)
		}
	}
}

func containsAny(s, list string) bool {
	for one := range strings.SplitSeq(list, "|") {
		if strings.Contains(s, one) {
			return true
		}
	}
	return false
}

// A client of go-redis is followed in what it was given.
func TestAClientWithTLSAndAUserIsTakenAsItIs(t *testing.T) {
	t.Parallel()
	s := secure(t)
	c := backend.SecureCluster(t, backend.RedisProduct, s, 0)
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	client := goredis.NewClusterClient(&goredis.ClusterOptions{
		Addrs: []string{c.Nodes[0].Addr}, Username: s.User, Password: s.Password,
		TLSConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
	})
	defer client.Close()
	b, err := newBroker(client)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	reach, err := b.Publish(t.Context(), broker.Message{Subject: "user:1"})
	if err != nil || reach[0] != (broker.Receipt{}) {
		t.Errorf("got %v, %v", reach, err)
	}
}

// asker is a proxy before a master that answers ASK in its place: to every SPUBLISH in one slot, which goes
// to another master then.
type asker struct {
	channel string // immutable; beginning of the channels of the slot
	answer  string // immutable
	on      atomic.Bool
	asked   atomic.Int64
}

// serve copies commands from a client to a server, and answers, but for those that it answers itself.
func (a *asker) serve(client net.Conn, server string) {
	defer client.Close()
	up, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer up.Close()
	in, out := bufio.NewReader(client), bufio.NewReader(up)
	for {
		command, words, err := readCommand(in)
		if err != nil {
			return
		}
		if a.on.Load() && words[0] == "SPUBLISH" && strings.HasPrefix(words[1], a.channel) {
			a.asked.Add(1)
			if _, err := client.Write([]byte(a.answer)); err != nil {
				return
			}
			continue
		}
		if _, err := up.Write(command); err != nil {
			return
		}
		answer, err := readAnswer(out)
		if err != nil {
			return
		}
		if _, err := client.Write(answer); err != nil {
			return
		}
	}
}

// readCommand reads an array of bulk strings.
func readCommand(r *bufio.Reader) (raw []byte, words []string, err error) {
	raw, err = readAnswer(r)
	for i, line := range strings.Split(string(raw), "\r\n") {
		if i > 0 && i%2 == 0 {
			words = append(words, line)
		}
	}
	return raw, append(words, "", ""), err
}

// readAnswer reads one value of RESP2.
func readAnswer(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	var n int
	fmt.Sscan(string(line[1:]), &n)
	switch line[0] {
	case '*':
		for range n {
			part, err := readAnswer(r)
			if err != nil {
				return nil, err
			}
			line = append(line, part...)
		}
	case '$':
		if n >= 0 {
			body := make([]byte, n+2)
			for have := 0; have < len(body); {
				m, err := r.Read(body[have:])
				if err != nil {
					return nil, err
				}
				have += m
			}
			line = append(line, body...)
		}
	}
	return line, nil
}

// While a slot is on its way, its old owner may send a message to the new one, with ASK. It arrives, if
// somebody is there, once; and what the new owner counts is not taken for the whole truth.
func TestAMessageFollowsASKAndItsReceiptDoesNotClaimTooMuch(t *testing.T) {
	t.Parallel()
	c := backend.RedisCluster(t, backend.RedisProduct, 0)
	slot, tag := redis.PartitionSlots()[0], redis.PartitionTags()[0]
	var subject string
	for i := range 100_000 {
		if subject = fmt.Sprint("user:", i); redis.Partition(subject) == 0 {
			break
		}
	}
	a := &asker{channel: "{" + tag + "}", answer: fmt.Sprintf("-ASK %d %s\r\n", slot, c.Nodes[1].Addr)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go a.serve(conn, c.Nodes[0].Addr) // ends with its client
		}
	}()
	client := goredis.NewClusterClient(&goredis.ClusterOptions{
		Addrs: []string{c.Nodes[1].Addr},
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == c.Nodes[0].Addr {
				addr = listener.Addr().String()
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	})
	defer client.Close()
	b, err := newBroker(client)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	publish := func(data string) broker.Receipt {
		t.Helper()
		reach, err := b.Publish(t.Context(), broker.Message{Subject: subject, Data: []byte(data)})
		if err != nil {
			t.Fatal(err)
		}
		return reach[0]
	}
	if got := publish("before"); got != (broker.Receipt{}) {
		t.Errorf("before: %+v", got)
	}
	// The new owner has what is asked for with ASKING, and one subscriber that came the same way.
	command(t, c.Nodes[1].Addr, "CLUSTER", "SETSLOT", slot, "IMPORTING", c.ID(0))
	command(t, c.Nodes[0].Addr, "CLUSTER", "SETSLOT", slot, "MIGRATING", c.ID(1))
	a.on.Store(true)
	if got := publish("nobody there"); got.Bound != broker.Unknown {
		t.Errorf("nobody at the new owner: %+v", got)
	}
	conn, err := net.Dial("tcp", c.Nodes[1].Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	channel := "{" + tag + "}" + subject
	fmt.Fprintf(conn, "*1\r\n$6\r\nASKING\r\n*2\r\n$10\r\nSSUBSCRIBE\r\n$%d\r\n%s\r\n", len(channel), channel)
	r := bufio.NewReader(conn)
	for range 2 {
		if _, err := readAnswer(r); err != nil {
			t.Fatal(err)
		}
	}
	if got := publish("hello"); got != (broker.Receipt{Nodes: 1, Bound: broker.AtLeast}) {
		t.Errorf("one at the new owner: %+v", got)
	}
	if got, err := readAnswer(r); err != nil || !strings.Contains(string(got), "hello") {
		t.Errorf("got %q, %v", got, err)
	}
	if n := a.asked.Load(); n != 2 {
		t.Errorf("%d messages were asked elsewhere, want 2", n)
	}
}
