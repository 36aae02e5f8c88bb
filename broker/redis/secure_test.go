package redis_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"

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
		"+spublish", "+cluster|info", "+cluster|slots")
}

func TestAClusterWithTLSAndUsersThroughReshardingAndAFailover(t *testing.T) {
	long.Only(t)
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
