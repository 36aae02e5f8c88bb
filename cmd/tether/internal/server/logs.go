package server

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"

	"tether/cmd/tether/internal/config"
)

// Logs are the loggers of the parts of the program, each with a level of its own.
type Logs struct {
	handler slog.Handler
	levels  []slog.LevelVar // in the order of config.LogParts
}

// NewLogs returns loggers that write to w, at level info.
func NewLogs(w io.Writer, format string) *Logs {
	o := &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // JSON would have nanoseconds, and no unit
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}
	l := &Logs{levels: make([]slog.LevelVar, len(config.LogParts))}
	if format == "json" {
		l.handler = slog.NewJSONHandler(w, o)
	} else {
		l.handler = slog.NewTextHandler(w, o)
	}
	return l
}

// Of is the logger of a part, one of config.LogParts.
func (l *Logs) Of(part string) *slog.Logger {
	return slog.New(leveled{l.handler, &l.levels[slices.Index(config.LogParts, part)]})
}

// set takes the levels of a configuration into use. It has been checked.
func (l *Logs) set(c config.LogConfig) {
	for i, part := range config.LogParts {
		text := c.Level
		for _, one := range c.Parts {
			if name, level, _ := strings.Cut(one, "="); name == part {
				text = level
			}
		}
		var level slog.Level
		_ = level.UnmarshalText([]byte(text)) // one of config.LogLevels
		l.levels[i].Set(level)
	}
}

// leveled is a handler with a level of its own.
type leveled struct {
	slog.Handler
	level *slog.LevelVar
}

func (h leveled) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

func (h leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveled{h.Handler.WithAttrs(attrs), h.level}
}

func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.level}
}
