package server

import (
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"tether/broker/seal"
	"tether/cmd/tether/internal/config"
	"tether/hub"
	"tether/transport"
)

// withoutSetting are the options that have none, and why.
var withoutSetting = map[string]string{
	"hub.Options.Logger":          "log.level and log.format make it",
	"hub.Options.Greeting":        "clients may rely on it",
	"hub.Options.ExpiryEvent":     "clients may rely on it",
	"hub.Options.ForgetHandshake": "always: nothing here asks for a handshake again",
	"hub.Options.Time":            "for tests",
	"hub.Options.OnStart":         "a function",
	"hub.Options.OnGap":           "a function; the hub logs gaps",
	"transport.Options.Relay":     "relay.on makes it",
	"transport.Options.OnWritten": "a function; it is that of the metrics",
	"hub.Limits.Rooms":            "a socket is in its user's room only",
	"hub.Limits.Acks":             "no acknowledgement is asked for",
	"transport.Options.Allow":     "a function",
	"transport.CORS.Allow":        "a function that asks cors.origins",
	"transport.CORS.Headers":      "what the client asks for",
	"transport.CORS.Exposed":      "the client reads no header",
	"transport.CORS.MaxAge":       "the default does",
	"transport.CORS.Origins":      "cors.origins, which a reload changes",
	"transport.Options.Logger":    "log.level and log.format make it",
	"transport.CORS.Methods":      "the default does",
	"transport.CORS.Status":       "the default does",
	"hub.Options.Version":         "its build says it",
	"hub.Options.OnMembers":       "a function; the page shows who is gone",
	"hub.Options.Tracers":         "admin.keys, admin.follow-every and tracing make them",
	"hub.Recovery.Data":           "a function; a socket here has no data",

	"transport.Options.Client":            "the site serves it",
	"transport.Options.CompressPolling":   "a proxy does it",
	"transport.Options.GenerateID":        "a function",
	"transport.Options.OnHandshake":       "a function",
	"transport.Options.OnHeaders":         "a function",
	"transport.Options.OnConnectionError": "a function",
}

// optionsWith are what the hub and the transport are made with, field by field: "hub.Limits.Depth" → 512.
func optionsWith(t *testing.T, args ...string) map[string]any {
	t.Helper()
	l, err := config.Loader{Args: args, Environ: []string{"TETHER_NODE=a", "TETHER_KEY=" + first, "TETHER_AUTH_MODE=none", "TETHER_EMIT_ENABLED=false"}}.Load()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	key, err := l.ClusterKeys()
	if err != nil {
		t.Fatal(err)
	}
	for _, options := range []any{hubOptions(&l.Config, key, nil), (&Server{logs: NewLogs(io.Discard, "text")}).transportOptions(&l.Config)} {
		flatten(out, reflect.ValueOf(options))
	}
	return out
}

func flatten(into map[string]any, v reflect.Value) {
	for i := range v.NumField() {
		name := v.Type().String() + "." + v.Type().Field(i).Name
		switch f := v.Field(i); {
		case f.Type() == reflect.TypeFor[hub.Limits](), f.Type() == reflect.TypeFor[hub.Devices](), f.Type() == reflect.TypeFor[hub.Recovery](), f.Type() == reflect.TypeFor[transport.CORS]():
			flatten(into, f)
		case withoutSetting[name] == "":
			into[name] = f.Interface()
		}
	}
}

// Two keys of a cluster.
const (
	first  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	second = "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHgA="
)

func keyOf(text string) seal.Key {
	k, err := seal.ParseKey(text)
	if err != nil {
		panic(err)
	}
	return k
}

// anotherValue is one that the setting may have and does not have by default, as it is written and as it is
// in an option, if it can only be so.
func anotherValue(f *kong.Flag) (text string, want any) {
	given := map[string]struct {
		text string
		want any
	}{
		"node":              {"b", "b"},
		"prefix":            {"other", "other"},
		"key":               {second, seal.Keys{Current: keyOf(second)}},
		"seal":              {"true", seal.Keys{Current: keyOf(first), Seal: true}},
		"plain":             {"send", seal.Keys{Current: keyOf(first), Plain: seal.SendPlain}},
		"emit.events":       {"/a,/b", []string{"/a", "/b"}},
		"devices.exceed":    {"refuse-new", true},
		"client.path":       {"/io/", "/io/"},
		"client.cookie":     {"node", transport.Cookie{Name: "node"}},
		"client.transports": {"websocket", []string{"websocket"}},
		"client.overflow":   {"drop-oldest", hub.DropOldest},
		"client.upgrade":    {"false", true}, // NoUpgrade
		"relay.peer":        {"http://10.0.0.5:3000", "http://10.0.0.5:3000"},
	}
	if v, ok := given[f.Name]; ok {
		return v.text, v.want
	}
	switch now := f.Target.Interface().(type) {
	case bool:
		return strconv.FormatBool(!now), !now
	case int:
		n := now + 1
		if n > int(config.Bound(f, f.Tag.Get("max"))) {
			n = now - 1
		}
		return strconv.Itoa(n), n
	case time.Duration:
		return (now + time.Second).String(), now + time.Second
	}
	return "", nil
}

// TestEverySettingIsUsedAndEveryOptionCanBeSet: each setting that is for the hub or the transport, changed
// alone, changes the options that it is for, and to what was written; and together they reach all options.
func TestEverySettingIsUsedAndEveryOptionCanBeSet(t *testing.T) {
	parser, err := config.NewParser(&config.Flags{})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := []string{"addr", "broker", "namespaces", "cors.origins", "drain.delay", "drain.timeout", "relay.on"} // and sections
	defaults := optionsWith(t)
	reached := map[string]bool{}
	for _, f := range config.Settings(parser.Model) {
		section, _, _ := strings.Cut(f.Name, ".")
		if slices.Contains(elsewhere, f.Name) || slices.Contains([]string{"admin", "admin-ui", "tracing", "stats", "revoke", "webhook", "rebalance", "http", "tls", "log"}, section) ||
			section == "auth" && f.Name != "auth.notice" || section == "emit" && f.Name != "emit.events" {
			continue
		}
		f.Reset()
		text, want := anotherValue(f)
		if want == nil {
			t.Errorf("%s: the test has no other value for it", f.Name)
			continue
		}
		defaults := defaults
		var beside []string // what the setting needs
		switch f.Name {
		case "recovery.all":
			beside = []string{"--recovery.on"}
		case "recovery.log":
			beside = []string{"--recovery.on", "--broker=memory://?log=5m"}
		}
		if beside != nil {
			defaults = optionsWith(t, beside...)
		}
		got := optionsWith(t, append(beside, "--"+f.Name+"="+text)...)
		var changed []string
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if reflect.DeepEqual(got[name], defaults[name]) {
				continue
			}
			changed = append(changed, name)
			reached[name] = true
			if !reflect.DeepEqual(got[name], want) {
				t.Errorf("%s=%s: %s is %v, want %v", f.Name, text, name, got[name], want)
			}
		}
		if len(changed) != 1 {
			t.Errorf("%s=%s changes %d options: %s", f.Name, text, len(changed), changed)
		}
	}
	for name := range defaults {
		if !reached[name] {
			t.Errorf("%s has no setting, and withoutSetting does not say why", name)
		}
	}
}

// TestTheDefaultsAreThoseOfTheLibrary, as the table of all limits in the docs has them.
func TestTheDefaultsAreThoseOfTheLibrary(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	units := map[string]int{"": 1, " KiB": 1 << 10, " MiB": 1 << 20, " ms": int(time.Millisecond), " s": int(time.Second)}
	defaults, compared := optionsWith(t), 0
	for _, m := range regexp.MustCompile("(?m)^\\| (no limit|[0-9,]+)([^|]*) \\| `([A-Za-z.]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		is, ok := defaults[m[3]]
		if !ok {
			continue
		}
		compared++
		n, _ := strconv.Atoi(strings.ReplaceAll(m[1], ",", "")) // no limit is 0
		if want := int64(n * units[m[2]]); reflect.ValueOf(is).Int() != want {
			t.Errorf("%s is %v by default; the library has %s%s", m[3], is, m[1], m[2])
		}
	}
	if compared < 20 {
		t.Errorf("only %d options were found in the table", compared)
	}
}
