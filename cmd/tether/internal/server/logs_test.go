package server

import (
	"bytes"
	"strings"
	"testing"

	"tether/cmd/tether/internal/config"
)

func TestEachPartOfTheLogHasItsLevel(t *testing.T) {
	var out bytes.Buffer
	l := NewLogs(&out, "text")
	say := func() (got string) {
		out.Reset()
		for _, part := range config.LogParts {
			log := l.Of(part).With("a", 1).WithGroup("g")
			log.Debug(part + "-debug")
			log.Info(part + "-info")
			log.Warn(part + "-warn")
		}
		for line := range strings.Lines(out.String()) {
			_, rest, _ := strings.Cut(line, "msg=")
			msg, _, _ := strings.Cut(rest, " ")
			got += strings.TrimSpace(msg) + " "
		}
		return got
	}
	l.set(config.LogConfig{Level: "warn", Parts: []string{"hub=debug", "broker=info"}})
	if got, want := say(), "server-warn hub-debug hub-info hub-warn transport-warn broker-info broker-warn "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	l.set(config.LogConfig{Level: "info", Parts: []string{"server=error"}}) // a reload
	if got, want := say(), "hub-info hub-warn transport-info transport-warn broker-info broker-warn "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
