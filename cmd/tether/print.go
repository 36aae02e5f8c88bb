package main

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// printConfig writes the configuration as YAML that could be a configuration file, but for the hidden
// secrets, with the source of every value beside it.
func (l *loaded) printConfig(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{"": root}
	for _, f := range settings(l.model) {
		section, key := "", f.Name
		if i := strings.LastIndexByte(f.Name, '.'); i >= 0 {
			section, key = f.Name[:i], f.Name[i+1:]
		}
		at, ok := sections[section]
		if !ok {
			at = &yaml.Node{Kind: yaml.MappingNode}
			sections[section] = at
			root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: section}, at)
		}
		value := &yaml.Node{}
		if err := value.Encode(shown(f)); err != nil {
			return err
		}
		value.Style |= yaml.FlowStyle
		value.LineComment = l.sourceOf(f.Name)
		at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return err
	}
	return enc.Close()
}

// shown is the value of a setting as it may be printed.
func shown(f *kong.Flag) any {
	switch v := f.Target.Interface().(type) {
	case Secret:
		return showURL(v)
	case []Secret:
		out := make([]string, len(v))
		for i, s := range v {
			out[i] = hidden
			if strings.HasPrefix(string(s), "file:") {
				out[i] = string(s) // where it is kept is no secret
			}
		}
		return out
	case time.Duration:
		return duration(v)
	default:
		return v
	}
}

// duration is like String without the units that are zero: 2m, not 2m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const referenceHead = `# Configuration of cmd/tether

<!-- Made from cmd/tether/config.go by: go test ./cmd/tether -run ReferenceIsCurrent -update -->

Every setting is a command line flag, an environment variable and a key of a YAML file; a flag wins
over the environment, the environment over the file, the file over the default.

| | |
|---|---|
| flag | ` + "`--http.idle-timeout=2m`" + `, one dash or two |
| environment | ` + "`TETHER_HTTP_IDLE_TIMEOUT=2m`" + `; an empty variable counts as not set |
| file, named by ` + "`--config`" + ` or ` + "`TETHER_CONFIG`" + ` | ` + "`http:`" + ` and under it ` + "`idle-timeout: 2m`" + ` |

Lists are separated by commas in flags and variables, and are lists in YAML. Durations have a unit:
` + "`500ms`, `10s`, `1m30s`" + `. A key that is not in the tables below is a mistake, in all three places.

- ` + "`--check-config`" + ` checks all this and what it refers to (key files, certificates), and exits with 0 or 2.
- ` + "`--print-config`" + ` prints what came out and where each value came from, with secrets hidden.
- A **secret** is best kept in a file: ` + "`file:/run/secrets/emit`" + ` as its value reads it from there. It is
  never printed or logged.
- **SIGHUP** reads everything again and takes into use what the tables mark with *reload*, and the TLS
  certificate. If there is a mistake anywhere, nothing changes and the log says why. What else has
  changed is named in the log and waits for a restart.
`

// reference is docs/configuration.md.
func reference(model *kong.Application) []byte {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	section := "-"
	for _, f := range settings(model) {
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
