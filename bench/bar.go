package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"tether/bench/internal/load"
	"tether/bench/internal/runner"
)

// bar is the progress line. In a terminal it is one line that changes; elsewhere a line every few
// seconds.
type bar struct {
	w        io.Writer
	terminal bool
	last     time.Time
	phase    string
	shown    bool
}

func newBar(w io.Writer) *bar {
	b := &bar{w: w}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		b.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return b
}

// show shows a line. phase is what makes a new line necessary outside of a terminal.
func (b *bar) show(phase, line string) {
	if b.terminal {
		fmt.Fprintf(b.w, "\r\x1b[K%s", line)
		b.shown = true
		return
	}
	if phase == b.phase && time.Since(b.last) < 5*time.Second {
		return
	}
	b.phase, b.last = phase, time.Now()
	fmt.Fprintln(b.w, line)
}

func (b *bar) end() {
	if b.shown {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}

func (b *bar) run(p runner.Progress) {
	head := fmt.Sprintf("[%d/%d] %s on %s", p.Step, p.Steps, p.Scenario, p.Peer)
	line := fmt.Sprintf("%s, %s", head, p.Phase)
	switch p.Phase {
	case "connecting":
		line += fmt.Sprintf(" %s %d of %d", meter(float64(p.Snapshot.Up)/float64(max(p.Wanted, 1))), p.Snapshot.Up, p.Wanted)
	case "emitting", "draining", "holding":
		line += fmt.Sprintf(" %s %s/s received, %d up", meter(p.Share), thousands(p.Rate), p.Snapshot.Up)
	}
	phase := head
	if p.Phase != "emitting" && p.Phase != "holding" {
		phase += "," // elsewhere than in a terminal two lines a repetition are enough
	}
	b.show(phase, line)
}

// load shows where a bench load is.
func (b *bar) load(phase string, share float64, s load.Snapshot, wanted int, rate, sent float64) {
	line := fmt.Sprintf("%s %s %d of %d up", phase, meter(share), s.Up, wanted)
	if s.InFlight > 0 {
		line += fmt.Sprintf(", %d connecting", s.InFlight)
	}
	if s.Failed+s.Closed > 0 {
		line += fmt.Sprintf(", %d failed, %d closed", s.Failed, s.Closed)
	}
	line += fmt.Sprintf(", %s events/s in", thousands(rate))
	if s.Sent > 0 {
		line += fmt.Sprintf(", %s/s out", thousands(sent))
	}
	b.show(phase, line)
}

func meter(share float64) string {
	const width = 20
	n := int(min(max(share, 0), 1) * width)
	return "[" + strings.Repeat("=", n) + strings.Repeat(" ", width-n) + "]"
}

func thousands(v float64) string {
	if v >= 10_000 {
		return fmt.Sprintf("%.0f k", v/1000)
	}
	return fmt.Sprintf("%.0f", v)
}
