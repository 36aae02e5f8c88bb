package redis_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker/redis"
	"tether/internal/backend"
)

func TestAURLOfManyServersIsCheckedAndItsPasswordKept(t *testing.T) {
	for _, c := range []struct{ url, reason string }{
		{"redis+sentinel://u:s3cret@127.0.0.1:1", "name of the master"},
		{"redis+sentinel://u:s3cret@127.0.0.1:1/main/5", "database 5"},
		{"redis+cluster://u:s3cret@127.0.0.1:1/5", "database 5"},
		{"redis+cluster://u:s3cret@127.0.0.1:1/x", "path"},
		{"redis://u:s3cret@127.0.0.1,127.0.0.2", "several hosts"},
		{"redis+cluster://u:s3cret@127.0.0.1?sentinel_auth=true", `"sentinel_auth"`},
		{"redis+cluster://u:s3cret@127.0.0.1?databse=1", "known are client_name, log, log_bytes, log_length, password_file, prefix"},
		{"rediss+cluster://u:s3cret@127.0.0.1?Ca=1", "known are ca, cert, client_name, key, log, log_bytes, log_length, password_file, prefix, skip_verify"},
		{"redis+sentinel://u:s3cret@127.0.0.1/m?x=s3cret", "known are client_name, log, log_bytes, log_length, password_file, prefix, sentinel_auth"},
		{"redis+sentinel://u:s3cret@127.0.0.1/m?sentinel_auth=s3cret", "neither true nor false"},
		{"redis://u:s3cret@127.0.0.1?ca=/x", `"ca"`},
		{"rediss://u:s3cret@127.0.0.1?ca=/no/such.pem", "read ca"},
		{"rediss://u:s3cret@127.0.0.1?cert=/no/such.pem", "need each other"},
		{"rediss://u:s3cret@127.0.0.1?cert=/no/such.pem&key=/no/such.pem", "read cert and key"},
		{"redis://u:s3cret@127.0.0.1?prefix=a&prefix=b", "twice"},
		{"redis://u:s3cret@127.0.0.1?prefix=%7Ba%7D", "braces"},
		{"redis+raft://u:s3cret@127.0.0.1", "scheme"},
		{"redis+cluster://u:s3cret@127.0.0.1:1,127.0.0.1:2", "refused"},
		{"redis+sentinel://u:s3cret@127.0.0.1:1,127.0.0.1:2/main", "refused"},
	} {
		b, err := open(c.url)
		if err == nil {
			b.Close()
			t.Errorf("%s was opened", c.url)
			continue
		}
		if !strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want a reason with %q and no password", c.url, err, c.reason)
		}
	}
}

func TestAServerThatIsNoClusterIsRefusedAsOne(t *testing.T) {
	s := backend.Redis(t, "--maxclients", "1000")
	b, err := open("redis+cluster://" + s.Addr)
	if err == nil {
		b.Close()
		t.Fatal("it was opened")
	}
	if !strings.Contains(err.Error(), "cluster support disabled") {
		t.Errorf("got %v", err)
	}
}

func TestOurOwnAuthorityAndCertificateAreFiles(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	addr := backend.FreeAddress(t)
	_, port, _ := net.SplitHostPort(addr)
	backend.Redis(t, "--tls-port", port, "--tls-auth-clients", "yes",
		"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
	url := "rediss://" + addr + "?ca=" + cert
	if b, err := open(url); err == nil {
		b.Close()
		t.Error("it was opened without a certificate")
	}
	b, err := open(url + "&cert=" + cert + "&key=" + key)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, b)
}

// With a prefix nothing of ours is outside of it, so a rule of access can tell applications apart.
func TestAPrefixIsAllThatAUserNeeds(t *testing.T) {
	t.Parallel()
	for _, topology := range []struct {
		name  string
		addrs func(*testing.T) (scheme string, addrs []string)
	}{
		{"one server", func(t *testing.T) (string, []string) {
			return "redis", []string{backend.Redis(t, "--maxclients", "1000").Addr}
		}},
		{"Cluster", func(t *testing.T) (string, []string) {
			c := backend.RedisCluster(t, backend.RedisProduct, 0)
			var addrs []string
			for _, n := range c.Nodes {
				addrs = append(addrs, n.Addr)
			}
			return "redis+cluster", addrs
		}},
	} {
		t.Run(topology.name, func(t *testing.T) {
			scheme, addrs := topology.addrs(t)
			for _, addr := range addrs {
				admin := goredis.NewClient(&goredis.Options{Addr: addr})
				defer admin.Close()
				if err := admin.Do(context.Background(), "ACL", "SETUSER", "app", "on", ">p", "resetchannels", "&shop:*", "&{*}shop:*", "~shop:*", "-@all",
					"+subscribe", "+unsubscribe", "+publish", "+ssubscribe", "+sunsubscribe", "+spublish", "+ping",
					"+eval", "+time", "+zadd", "+zrem", "+zscore", "+zrangebyscore", "+pexpire",
					"+client|info", "+client|kill", "+cluster|info", "+cluster|slots", "+asking").Err(); err != nil {
					t.Fatal(err)
				}
			}
			roundTrip(t, opened(t, scheme+"://app:p@"+strings.Join(addrs, ",")+"?prefix=shop:"))
			other := opened(t, scheme+"://"+strings.Join(addrs, ",")+"?prefix=bar:")
			roundTrip(t, other)
			var keys []string
			for _, addr := range addrs {
				admin := goredis.NewClient(&goredis.Options{Addr: addr})
				some, err := admin.Keys(context.Background(), "*").Result()
				admin.Close()
				if err != nil {
					t.Fatal(err)
				}
				keys = append(keys, some...)
			}
			if !slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, "shop:tether:nodes") }) ||
				slices.ContainsFunc(keys, func(k string) bool { return !strings.HasPrefix(k, "shop:") && !strings.HasPrefix(k, "bar:") }) {
				t.Errorf("the keys are %q", keys)
			}
		})
	}
	client := goredis.NewClient(&goredis.Options{})
	defer client.Close()
	if _, err := redis.New(client, redis.Options{Prefix: "{a}"}); err == nil {
		t.Error("a prefix with braces is taken")
	}
}
