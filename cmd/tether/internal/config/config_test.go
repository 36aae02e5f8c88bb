package config

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	testTokenKey = "C5htavmWz6qefupiS2ol3iEstvDvUqtCA5DoX+csIFA="
	testEmitKey  = "emit-key-for-tests-only"
)

// enough is the least environment that a server starts with.
var enough = []string{"TETHER_AUTH_KEYS=" + testTokenKey, "TETHER_EMIT_KEYS=" + testEmitKey}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEverySettingHasHelpAndSaneTags(t *testing.T) {
	parser, err := NewParser(&Flags{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Settings(parser.Model) {
		if !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: the help is not a sentence: %q", f.Name, f.Help)
		}
		if f.Tag.Has("min") {
			Bound(f, f.Tag.Get("min")) // panics on a tag that does not parse
			Bound(f, f.Tag.Get("max"))
		}
		if k := f.Target.Kind(); (k == reflect.Int || k == reflect.Int64) && !f.Tag.Has("min") {
			t.Errorf("%s: a number without bounds", f.Name)
		}
		if _, secret := f.Target.Interface().(Secret); secret != slices.Contains([]string{"broker", "webhook.url", "admin-ui.password"}, f.Name) {
			t.Errorf("%s: only two URLs and a password are single secrets, see shown", f.Name)
		}
	}
}

func TestTheDefaultsAreRight(t *testing.T) {
	l, err := Loader{Environ: enough}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if l.Addr != "127.0.0.1:3000" || l.Broker != "memory://" || l.Client.PingInterval != 25*time.Second ||
		!reflect.DeepEqual(l.Namespaces, []string{"/"}) || !reflect.DeepEqual(l.Client.Transports, []string{"polling", "websocket"}) {
		t.Errorf("got %+v", l.Config)
	}
	if l.Node == "" {
		t.Error("node has no name")
	}
}

func TestFlagsWinOverEnvironmentOverFile(t *testing.T) {
	file := writeFile(t, "server.yaml", `
addr: 127.0.0.1:1001
node: from-file
prefix: from-file
namespaces: ["/", "/news"]
http:
  idle-timeout: 1m
log: {level: debug}
cors:
`)
	environ := append([]string{"TETHER_CONFIG=" + file, "TETHER_NODE=from-env", "TETHER_PREFIX=from-env", "TETHER_LOG_FORMAT="}, enough...)
	l, err := Loader{Args: []string{"-prefix=from-flag", "--drain.window", "1s"}, Environ: environ}.Load()
	if err != nil {
		t.Fatal(err)
	}
	got := []any{l.Addr, l.Node, l.Prefix, l.Namespaces, l.HTTP.IdleTimeout, l.Log.Level, l.Log.Format, l.Drain.Window}
	want := []any{"127.0.0.1:1001", "from-env", "from-flag", []string{"/", "/news"}, time.Minute, "debug", "text", time.Second}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for key, want := range map[string]string{
		"addr": file + ":2", "node": "TETHER_NODE", "prefix": "flag", "http.idle-timeout": file + ":7", "client.compress": "default",
	} {
		if got := l.SourceOf(key); got != want {
			t.Errorf("source of %s: got %q, want %q", key, got, want)
		}
	}
}

func TestAFlagNamesTheFileToo(t *testing.T) {
	inEnv := writeFile(t, "env.yaml", "node: env")
	inFlag := writeFile(t, "flag.yaml", "node: flag")
	l, err := Loader{Args: []string{"-config", inFlag}, Environ: append([]string{"TETHER_CONFIG=" + inEnv}, enough...)}.Load()
	if err != nil || l.Node != "flag" {
		t.Errorf("got node %v, %v", l, err)
	}
}

func TestEveryMistakeNamesTheKeyAndWhatIsRight(t *testing.T) {
	key := "TETHER_AUTH_KEYS=" + testTokenKey
	emit := "TETHER_EMIT_KEYS=" + testEmitKey
	missing := filepath.Join(t.TempDir(), "missing")
	empty, two := writeFile(t, "empty", "\n"), writeFile(t, "two", "0123456789abcdef\n0123456789abcdeF\n")
	ui := []string{"--admin-ui.mode=production", "--admin-ui.password=0123456789abcdef"}
	for _, c := range []struct {
		name string
		args []string
		env  []string // nil: enough
		file string
		want []string // parts of the message
	}{
		{"unknown flag", []string{"--http.idle-timout=1m"}, nil, "", []string{"unknown flag http.idle-timout", "http.idle-timeout"}},
		{"unknown flag with a secret", []string{"--emit.kyes=hunter2hunter2hunter2"}, nil, "", []string{"emit.kyes", "emit.keys"}},
		{"argument without a key", []string{"hunter2hunter2hunter2"}, nil, "", []string{"--key=value"}},
		{"argument that is a URL", []string{"redis://:hunter2@h"}, nil, "", []string{"--key=value"}},
		{"value of a switch", []string{"--client.compress", "true"}, nil, "", []string{`"true" is unexpected`, "--key=value", "tether -h"}},
		{"flag without a value", []string{"--addr"}, nil, "", []string{"addr has no value", "--addr=VALUE"}},
		{"bad duration in a flag", []string{"--http.idle-timeout=60"}, nil, "", []string{"http.idle-timeout", "duration", "unit"}},
		{"bad choice in a flag", []string{"--log.level=loud"}, nil, "", []string{"log.level", "debug", "error"}},
		{"unknown variable", nil, append([]string{"TETHER_LOG_LEVL=info"}, enough...), "", []string{"TETHER_LOG_LEVL", "TETHER_LOG_LEVEL"}},
		{"unknown variable, like nothing", nil, append([]string{"TETHER_WHATEVERTHISIS=1"}, enough...), "", []string{"TETHER_WHATEVERTHISIS", "docs/configuration.md"}},
		{"Kubernetes service link", nil, append([]string{"TETHER_PORT_3000_TCP_ADDR=10.0.0.1"}, enough...), "", []string{"enableServiceLinks"}},
		{"bad number in a variable", nil, append([]string{"TETHER_CLIENT_MAX_PAYLOAD=1MB"}, enough...), "", []string{"client.max-payload", "TETHER_CLIENT_MAX_PAYLOAD", "whole number"}},
		{"bad bool in a variable", nil, append([]string{"TETHER_CLIENT_COMPRESS=maybe"}, enough...), "", []string{"client.compress", "true or false"}},
		{"bad choice in a variable", nil, append([]string{"TETHER_CLIENT_OVERFLOW=panic"}, enough...), "", []string{"client.overflow", "TETHER_CLIENT_OVERFLOW", "drop-oldest"}},
		{"peer without a scheme", []string{"--relay.peer=10.0.0.5:3000"}, nil, "", []string{"relay.peer", "http://10.0.0.5:3000"}},
		{"peer without a relay", []string{"--relay.peer=http://10.0.0.5:3000", "--relay.on=false"}, nil, "", []string{"relay.peer", "relay.on"}},
		{"unknown key", nil, nil, "log:\n  levle: info\n", []string{"log.levle", "server.yaml:2", "log.level"}},
		{"unknown section", nil, nil, "metrics:\n  on: true\n", []string{"metrics", "server.yaml:1"}},
		{"flag that is no setting", nil, nil, "check-config: true\n", []string{"check-config", "unknown key"}},
		{"duration without a unit", nil, nil, "http:\n  idle-timeout: 60\n", []string{"http.idle-timeout", "server.yaml:2", "10s"}},
		{"a list where there is none", nil, nil, "addr: [a, b]\n", []string{"addr", "server.yaml:1", "list"}},
		{"a section where there is none", nil, nil, "addr:\n  host: a\n", []string{"addr", "no value"}},
		{"a value where there is a section", nil, nil, "log: info\n", []string{"log", "section"}},
		{"nothing where there is a value", nil, nil, "addr:\n", []string{"addr", "no value"}},
		{"twice", nil, nil, "addr: :1\naddr: :2\n", []string{"addr", "server.yaml:2", "twice"}},
		{"not YAML", nil, nil, "addr: \"hunter2hunter2hunter2\n", []string{"server.yaml", "YAML"}},
		{"a tab", nil, nil, "addr: :1\nlog:\n\tlevel: info # hunter2\n", []string{"server.yaml", "line 3", "tab", "spaces"}},
		{"two documents", nil, nil, "addr: :1\n---\naddr: :2\n", []string{"server.yaml", "document"}},
		{"no such file", []string{"--config=" + missing}, nil, "", []string{"config", missing}},
		{"too small", []string{"--client.max-payload=1"}, nil, "", []string{"client.max-payload", "1024", "67108864"}},
		{"too long", []string{"--drain.window=48h"}, nil, "", []string{"drain.window", "48h", "1h"}},
		{"negative", []string{"--drain.delay=-1s"}, nil, "", []string{"drain.delay", "0s"}},
		{"missing token key", nil, []string{emit}, "", []string{"auth.keys", "TETHER_AUTH_KEYS", "auth.mode=none"}},
		{"missing bearer key", nil, []string{key}, "", []string{"emit.keys", "TETHER_EMIT_KEYS", "emit.enabled=false"}},
		{"both missing", nil, []string{}, "", []string{"auth.keys", "emit.keys"}},
		{"short bearer key", nil, []string{key, "TETHER_EMIT_KEYS=hunter2"}, "", []string{"emit.keys", "16 characters", "tether key"}},
		{"bad token key", nil, []string{"TETHER_AUTH_KEYS=hunter2", emit}, "", []string{"auth.keys", "key 1 of 1", "not base64", "tether key"}},
		{"short token key", nil, []string{"TETHER_AUTH_KEYS=aHVudGVyMg==", emit}, "", []string{"auth.keys", "16, 24 or 32 bytes", "has 7", "tether key"}},
		{"short key of the statistics", nil, []string{key, emit, "TETHER_STATS_KEYS=hunter2"}, "", []string{"stats.keys", "16 characters", "tether key"}},
		{"bad second token key", nil, []string{key + ",hunter2", emit}, "", []string{"auth.keys", "key 2 of 2"}},
		{"key file that is not there", nil, []string{"TETHER_AUTH_KEYS=file:" + missing, emit}, "", []string{"auth.keys", missing}},
		{"key file that is empty", nil, []string{key, "TETHER_EMIT_KEYS=file:" + empty}, "", []string{"emit.keys", "empty"}},
		{"address", []string{"--addr=3000"}, nil, "", []string{"addr", ":3000"}},
		{"port", []string{"--addr=:99999"}, nil, "", []string{"addr", ":99999", ":3000"}},
		{"reserved event", []string{"--emit.events=/users/ping,disconnect"}, nil, "", []string{"emit.events", `"disconnect"`, "/users/ping"}},
		{"broker with a database", []string{"--broker=redis://me:hunter2@host/3"}, nil, "", []string{"broker (flag)", "database 3", "prefix"}},
		{"broker with an unknown option", []string{"--broker=redis://me:hunter2@host?prefx=hunter2"}, nil, "", []string{"broker", `"prefx"`, "prefix"}},
		{"all without recovery", []string{"--recovery.all"}, nil, "", []string{"recovery.all", "recovery.on"}},
		{"log without recovery", []string{"--broker=redis://host?log=5m", "--recovery.log"}, nil, "", []string{"recovery.log", "recovery.on"}},
		{"log that the broker does not keep", []string{"--broker=redis://host", "--recovery.on", "--recovery.log"}, nil, "", []string{"recovery.log", "log=4m"}},
		{"log that is too short", []string{"--broker=redis://host?log=3m", "--recovery.on", "--recovery.log"}, nil, "", []string{"recovery.log", "log=4m"}},
		{"log that NATS does not keep", []string{"--broker=nats://host", "--recovery.on", "--recovery.log"}, nil, "", []string{"recovery.log", "log=4m"}},
		{"log of no time on NATS", []string{"--broker=nats://host?log=hunter2"}, nil, "", []string{"broker", "5m is right"}},
		{"log of no time", []string{"--broker=redis://host?log=hunter2"}, nil, "", []string{"broker", "5m is right"}},
		{"broker without a master", []string{"--broker=redis+sentinel://me:hunter2@host"}, nil, "", []string{"broker", "name of the master"}},
		{"broker with a bad port", []string{"--broker=redis://me:hunter2@host:66666"}, nil, "", []string{"broker", "65535"}},
		{"broker without a host", []string{"--broker=nats://me:hunter2@"}, nil, "", []string{"broker", "no name"}},
		{"broker with a file that is not there", []string{"--broker=nats://host?creds=" + missing}, nil, "", []string{"broker", missing}},
		{"broker with a path", []string{"--broker=memory://a/b"}, nil, "", []string{"broker", "memory://NAME"}},
		{"broker", []string{"--broker=kafka://me:hunter2@host"}, nil, "", []string{"broker", `"kafka"`, "redis://", "nats://"}},
		{"broker without a scheme", []string{"--broker=hunter2"}, nil, "", []string{"broker", "redis://"}},
		{"namespace", []string{"--namespaces=news"}, nil, "", []string{"namespaces", "/news"}},
		{"namespace longer than allowed", []string{"--namespaces=/,/news", "--limits.namespace=4"}, nil, "", []string{"limits.namespace", `"/news"`}},
		{"path", []string{"--client.path=/socket.io"}, nil, "", []string{"client.path", `"/socket.io"`, "/socket.io/"}},
		{"path with a parent", []string{"--client.path=/a/../b/"}, nil, "", []string{"client.path", "/socket.io/"}},
		{"path with a wildcard", []string{"--client.path=/{a}/"}, nil, "", []string{"client.path", "/socket.io/"}},
		{"cookie", []string{"--client.cookie=io; Domain=example.com"}, nil, "", []string{"client.cookie", "name of a cookie"}},
		{"too deep", []string{"--limits.depth=513"}, nil, "", []string{"limits.depth", "1 to 512"}},
		{"no attachments", []string{"--limits.attachments=0"}, nil, "", []string{"limits.attachments", "1 to 1024"}},
		{"no time for attachments", []string{"--client.attachment-timeout=0s"}, nil, "", []string{"client.attachment-timeout", "100ms to 10m"}},
		{"no time for hooks", []string{"--client.hook-timeout=0s"}, nil, "", []string{"client.hook-timeout", "100ms to 10m"}},
		{"transport", []string{"--client.transports=polling,sse"}, nil, "", []string{"client.transports", `"sse"`, "websocket"}},
		{"origin", []string{"--cors.origins=app.example.com"}, nil, "", []string{"cors.origins", "https://app.example.com"}},
		{"origin with a path", []string{"--cors.origins=https://a.example/x"}, nil, "", []string{"cors.origins", "https://app.example.com"}},
		{"any origin with cookies", []string{"--cors.origins=*", "--cors.credentials"}, nil, "", []string{"cors.credentials", "origins"}},
		{"certificate without a key", []string{"--tls.cert=a.pem"}, nil, "", []string{"tls.key", "missing"}},
		{"key without a certificate", []string{"--tls.key=a.pem"}, nil, "", []string{"tls.cert", "missing"}},
		{"Admin UI without a password", []string{"--admin-ui.mode=production"}, nil, "", []string{"admin-ui.password", "TETHER_ADMIN_UI_PASSWORD", "tether key"}},
		{"Admin UI with a short password", []string{"--admin-ui.mode=production", "--admin-ui.password=hunter2"}, nil, "", []string{"admin-ui.password", "16 characters"}},
		{"Admin UI with two passwords", []string{"--admin-ui.mode=production", "--admin-ui.password=file:" + two}, nil, "", []string{"admin-ui.password", "2 lines"}},
		{"Admin UI with a file that is not there", []string{"--admin-ui.mode=development", "--admin-ui.password=file:" + missing}, nil, "", []string{"admin-ui.password", missing}},
		{"Admin UI where clients are", append(ui[:2:2], "--admin-ui.namespace=/"), nil, "", []string{"admin-ui.namespace", "namespaces"}},
		{"Admin UI in no namespace", append(ui[:2:2], "--admin-ui.namespace=admin"), nil, "", []string{"admin-ui.namespace", "/news"}},
		{"Admin UI in a namespace longer than allowed", append(ui[:2:2], "--limits.namespace=3"), nil, "", []string{"limits.namespace", `"/admin"`}},
		{"Admin UI for nobody", append(ui[:2:2], "--admin-ui.username="), nil, "", []string{"admin-ui.username", "admin"}},
		{"too many sockets for the Admin UI", append(ui[:2:2], "--admin-ui.max-sockets=1001"), nil, "", []string{"admin-ui.max-sockets", "1 to 1000"}},
		{"collector", []string{"--tracing.on", "--tracing.endpoint=localhost:4318"}, nil, "", []string{"tracing.endpoint", "http://localhost:4318"}},
		{"collector with a password", []string{"--tracing.on", "--tracing.endpoint=http://me:hunter2@host"}, nil, "", []string{"tracing.endpoint", "OTEL_EXPORTER_OTLP_HEADERS"}},
		{"collector without traces", []string{"--tracing.endpoint=http://localhost:4318"}, nil, "", []string{"tracing.endpoint", "tracing.on"}},
		{"certificate that is not there", []string{"--tls.cert=" + missing, "--tls.key=" + missing}, nil, "", []string{"tls.cert", missing}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.env == nil {
				c.env = enough
			}
			if c.file != "" {
				c.args = append(c.args, "--config="+writeFile(t, "server.yaml", c.file))
			}
			_, err := Loader{Args: c.args, Environ: c.env}.Load()
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q has the secret in it", err)
			}
		})
	}
}

func TestPrintedConfigurationHidesSecretsAndCanBeRead(t *testing.T) {
	environ := []string{
		"TETHER_AUTH_KEYS=" + testTokenKey, "TETHER_EMIT_KEYS=" + testEmitKey + ",second-emit-key-for-tests",
		"TETHER_BROKER=redis://app:hunter2@redis.example:6379/?client_name=hunter3", "TETHER_HTTP_IDLE_TIMEOUT=60s", "TETHER_NODE=a",
	}
	l, err := Loader{Environ: environ}.Load()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := l.Print(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, secret := range []string{testTokenKey, testEmitKey, "second-emit", "hunter2", "hunter3", "app:"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in the output:\n%s", secret, text)
		}
	}
	for _, want := range []string{
		"redis://(hidden)@redis.example:6379/?(hidden) # TETHER_BROKER", "keys: [(hidden), (hidden)] # TETHER_EMIT_KEYS",
		"idle-timeout: 1m # TETHER_HTTP_IDLE_TIMEOUT", "window: 0s # default", "addr: 127.0.0.1:3000 # default",
	} {
		if !strings.Contains(strings.ReplaceAll(text, `"`, "'"), want) {
			t.Errorf("%q is not in the output:\n%s", want, text)
		}
	}
	// Read again, with the secrets from where they came, it is the same configuration.
	again, err := Loader{Args: []string{"--config=" + writeFile(t, "printed.yaml", text)}, Environ: environ}.Load()
	if err != nil {
		t.Fatal(err)
	}
	var outAgain bytes.Buffer
	if err := again.Print(&outAgain); err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(` # .*`)
	if got, want := comment.ReplaceAllString(outAgain.String(), ""), comment.ReplaceAllString(text, ""); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	keys := writeFile(t, "keys", testTokenKey+"\n\n"+testTokenKey+"\n")
	got, err := Expand([]Secret{"plain", Secret("file:" + keys)})
	if want := []Secret{"plain", testTokenKey, testTokenKey}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %d keys, %v; want %d", len(got), err, len(want))
	}
}

func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"", "addr: :1", "log: {level: debug}", "a: &a [*a]", "log:\n- x", "? [a]\n: b", "<<: {addr: :1}", "\x00", "addr: !!binary x",
	} {
		f.Add(s)
	}
	path := filepath.Join(f.TempDir(), "server.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Loader{Args: []string{"--config=" + path}, Environ: enough}.Load()
		if err == nil {
			err = l.Print(io.Discard)
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// TestACommandIsAskedForNoMoreThanItUses: what is wrong with other settings is of no interest to it, but a
// flag that it would ignore is a mistake.
func TestACommandIsAskedForNoMoreThanItUses(t *testing.T) {
	type grammar struct {
		Serve struct{} `cmd:""`
		Emit  struct {
			To string `arg:""`
		} `cmd:"" uses:"broker,prefix"`
		Flags `embed:""`
	}
	load := func(args ...string) error {
		_, err := Loader{Args: args, Grammar: func() (any, *Flags) { g := &grammar{}; return g, &g.Flags }}.Load()
		return err
	}
	for _, c := range []struct {
		args []string
		want string // part of the message; "" for none
	}{
		{[]string{"serve"}, "auth.keys: is missing"},
		{[]string{"emit", "user:42"}, ""},
		{[]string{"emit", "user:42", "--broker=hunter2"}, "broker (flag): is not a URL"},
		{[]string{"emit", "user:42", "--tls.cert=x"}, "tls.cert (flag): is not used by tether emit"},
		{[]string{"emit"}, "<to> is missing; tether emit -h explains"},
		{[]string{"emti"}, `"emti" is unexpected (did you mean emit?); tether -h explains`},
	} {
		err := load(c.args...)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.args, err, c.want)
		}
	}
}
