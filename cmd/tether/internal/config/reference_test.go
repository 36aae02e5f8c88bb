package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

// referenceHead has ´ where the page has `.
const referenceHead = `# Configuration

<!-- Made from cmd/tether/internal/config/config.go by: go test ./cmd/tether/internal/config -run ReferenceIsCurrent -update -->

The settings of ´tether serve´. The other commands use some of them: ´tether emit´ the broker, the prefix and the
key, and ´tether token´ the keys of tokens.

Every setting is a command line flag, an environment variable and a key of a YAML file. A flag wins
over the environment, the environment over the file, and the file over the default.

| | |
|---|---|
| flag | ´--http.idle-timeout=2m´, one dash or two |
| environment | ´TETHER_HTTP_IDLE_TIMEOUT=2m´; an empty variable counts as not set |
| file, named by ´--config´ or ´TETHER_CONFIG´ | ´http:´ and under it ´idle-timeout: 2m´ |

Lists are separated by commas in flags and variables, and are lists in YAML. Durations have a unit:
´500ms´, ´10s´, ´1m30s´. A key that is not in the tables below is a mistake, in all three places.

- ´tether check-config´ checks all this and what it refers to (key files, certificates), and exits with 0 or 2. It
  says how long a node may take to stop, and the ID of its key.
- ´tether print-config´ prints what came out and where each value came from, with secrets hidden.
- A **secret** is best kept in a file: ´file:/run/secrets/emit´ as its value reads it from there. It is
  never printed or logged.
- **SIGHUP** reads everything again and takes into use what the tables mark with *reload*, and the TLS
  certificate. If there is a mistake anywhere, nothing changes and the log says why. What else has
  changed, in a file that a secret names too, is named in the log and waits for a restart. The
  environment of a process stays as it was at its start, so what ´TETHER_´ and ´OTEL_´ variables say never changes.
`

// reference is docs/configuration.md.
func reference(model *kong.Application) []byte {
	var b bytes.Buffer
	b.WriteString(strings.ReplaceAll(referenceHead, "´", "`"))
	section := "-"
	for _, f := range Settings(model) {
		own := ""
		if i := strings.LastIndexByte(f.Name, '.'); i >= 0 {
			own = f.Name[:i]
		}
		if own != section {
			section = own
			title := "General"
			if section != "" {
				title = "`" + section + "`"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| key | default | |\n|---|---|---|\n", title)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Name, defaultOf(f), strings.Join(remarks(f), " "))
	}
	return b.Bytes()
}

func defaultOf(f *kong.Flag) string {
	if !f.HasDefault || f.Default == "" {
		return ""
	}
	return "`" + f.Default + "`"
}

func remarks(f *kong.Flag) []string {
	out := []string{f.Help}
	switch {
	case f.Enum != "":
		out = append(out, "One of `"+strings.Join(f.EnumSlice(), "`, `")+"`.")
	case f.Tag.Has("min"):
		out = append(out, "`"+f.Tag.Get("min")+"` to `"+f.Tag.Get("max")+"`.")
	case f.Target.Kind() == reflect.Slice:
		out = append(out, "A list.")
	}
	if f.Tag.Has("secret") {
		out = append(out, "**Secret.**")
	}
	if f.Tag.Has("reload") {
		out = append(out, "*Reload.*")
	}
	return out
}

func TestReferenceIsCurrent(t *testing.T) {
	const path = "../../../../docs/configuration.md"
	parser, err := NewParser(&Flags{})
	if err != nil {
		t.Fatal(err)
	}
	want := reference(parser.Model)
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what config.go says; run go test ./cmd/tether/internal/config -run ReferenceIsCurrent -update", path)
	}
}
