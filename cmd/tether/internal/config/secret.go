package config

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"tether/broker"
)

const hidden = "(hidden)"

// Secret is a value that is never printed: not by fmt, not in a log, not as JSON or YAML. Convert it
// to a string where it is used.
type Secret string

func (Secret) String() string               { return hidden }
func (Secret) GoString() string             { return hidden }
func (Secret) LogValue() slog.Value         { return slog.StringValue(hidden) }
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// ShowURL is a URL without what may be secret in it: everything between the scheme and the host, and
// the query.
func ShowURL(s Secret) string {
	u, err := broker.ParseURL(string(s))
	if err != nil || u.Opaque != "" || u.Host == "" && u.Path == "" && u.Scheme != "memory" {
		return hidden
	}
	out := u.Scheme + "://"
	if u.User != nil {
		out += hidden + "@"
	}
	out += u.Host + u.EscapedPath()
	if u.RawQuery != "" {
		out += "?" + hidden
	}
	return out
}

// Expand replaces every value file:PATH by the lines of that file that are not empty.
func Expand(values []Secret) ([]Secret, error) {
	var out []Secret
	for _, v := range values {
		path, ok := strings.CutPrefix(string(v), "file:")
		if !ok {
			out = append(out, v)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, Secret(line))
			}
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("%s is empty", path)
		}
	}
	return out, nil
}
