package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"tether/bench/internal/scenario"
)

// row is a line of a table for people.
type row []string

// table is what a scenario comes to: a header and a line for each peer.
func (f *File) table(s scenario.Scenario) (rows []row) {
	head := row{"server"}
	for _, c := range s.Columns {
		m := MetricOf(c)
		title := m.Title
		if m.Unit != "" && m.Unit != "/s" {
			title += ", " + m.Unit
		} else if m.Unit != "" {
			title += m.Unit
		}
		head = append(head, title)
	}
	yardsticks := f.yardsticks(s)
	for _, y := range yardsticks {
		for _, c := range s.Ratios {
			head = append(head, MetricOf(c).Title+" ÷ "+y)
		}
	}
	if s.Kind == scenario.Emit {
		head = append(head, "lost, doubled, inverted, foreign")
	}
	rows = append(rows, head)
	for _, peer := range f.Peers(s.Name) {
		r := row{peer}
		for _, c := range s.Columns {
			r = append(r, cell(f.Value(s.Name, peer, c)))
		}
		for _, y := range yardsticks {
			for _, c := range s.Ratios {
				if peer == y {
					r = append(r, "1")
				} else {
					r = append(r, cell(f.Ratio(s.Name, peer, y, c)))
				}
			}
		}
		if s.Kind == scenario.Emit {
			c := f.Faults(s.Name, peer)
			text := fmt.Sprintf("%d, %d, %d, %d", c.Lost, c.Doubled, c.Inverted, c.Foreign)
			if n := f.Value(s.Name, peer, "failed"); n.Max > 0 {
				text += fmt.Sprintf(" (%s emits failed)", number(n.Max))
			}
			r = append(r, text)
		}
		rows = append(rows, r)
	}
	return rows
}

// yardsticks are what the peers of a scenario are divided by: its limit, and others that took part.
func (f *File) yardsticks(s scenario.Scenario) (names []string) {
	peers := f.Peers(s.Name)
	for _, y := range append([]string{s.Limit}, s.Against...) {
		if slices.Contains(peers, y) {
			names = append(names, y)
		}
	}
	return names
}

// cell is a median with the half spread of its repetitions.
func cell(s Summary) string {
	switch {
	case s.N == 0:
		return "–"
	case s.N == 1:
		return number(s.Median)
	}
	return fmt.Sprintf("%s ±%.0f%%", number(s.Median), s.Spread())
}

// number has three significant digits and separated thousands.
func number(v float64) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	if digits > 0 {
		s := fmt.Sprintf("%.*f", min(digits, 4), v)
		if strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s
	}
	s := fmt.Sprintf("%.0f", math.Abs(v))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v < 0 {
		s = "-" + s
	}
	return s
}

// Print writes the tables of all scenarios.
func (f *File) Print(w io.Writer) error {
	b := &strings.Builder{}
	for _, s := range f.Scenarios {
		if len(f.Peers(s.Name)) == 0 {
			continue
		}
		fmt.Fprintf(b, "\n%s (%s): %s\n", s.Title, s.Name, describe(s))
		printRows(b, f.table(s))
		f.problems(b, s)
	}
	if f.Interrupted {
		fmt.Fprintln(b, "\nInterrupted: this is the report so far.")
	}
	e := f.Environment
	fmt.Fprintf(b, "\ncommit %s, %s, %s, kernel %s, %d cores", e.Commit, e.Go, e.System, e.Kernel, e.Cores)
	for _, m := range []map[string]string{e.Brokers, e.Peers} {
		for _, k := range sortedKeys(m) {
			fmt.Fprintf(b, ", %s %s", k, m[k])
		}
	}
	fmt.Fprintln(b)
	_, err := io.WriteString(w, b.String())
	return err
}

func describe(s scenario.Scenario) string {
	parts := []string{number(float64(s.Conns)) + " connections"}
	if s.Nodes > 1 {
		parts = append(parts, fmt.Sprintf("%d nodes", s.Nodes))
	}
	if s.Broker != "" {
		parts = append(parts, s.Broker)
	}
	if s.Kind == scenario.Emit && s.Size > 0 {
		parts = append(parts, fmt.Sprintf("%d-byte payloads", s.Size))
	}
	return strings.Join(parts, ", ")
}

// problems says what went wrong in words.
func (f *File) problems(w io.Writer, s scenario.Scenario) {
	for _, peer := range f.Peers(s.Name) {
		sums := map[string]uint64{}
		for _, r := range f.of(s.Name, peer) {
			if r.Failed != "" {
				why, _, _ := strings.Cut(r.Failed, "\n")
				sums["repetition failed: "+why]++
			}
			for why, n := range r.Errors {
				sums["emit: "+why] += n
			}
			for why, n := range r.Failures {
				sums["connection: "+why] += n
			}
		}
		f.disturbed(w, s, peer)
		for _, why := range sortedKeys(sums) {
			fmt.Fprintf(w, "  %s: %s × %s\n", peer, number(float64(sums[why])), why)
		}
	}
}

// disturbed says when the figures are not only the server's own.
func (f *File) disturbed(w io.Writer, s scenario.Scenario, peer string) {
	const tooMuch, tooLate = 10, 5
	others, late, runs := 0, 0, f.of(s.Name, peer)
	for _, r := range runs {
		if r.Metrics["others_pct"] > tooMuch {
			others++
		}
		if r.Metrics["late_p99_ms"] > tooLate {
			late++
		}
	}
	if others > 0 {
		fmt.Fprintf(w, "  %s: something else used up to %.0f %% of the machine in %d of %d repetitions\n",
			peer, f.Value(s.Name, peer, "others_pct").Max, others, len(runs))
	}
	if late > 0 {
		fmt.Fprintf(w, "  %s: the schedule was late, p99 %s ms, in %d of %d repetitions: the emitter or the machine was too busy\n",
			peer, number(f.Value(s.Name, peer, "late_p99_ms").Max), late, len(runs))
	}
}

func printRows(w io.Writer, rows []row) {
	width := make([]int, len(rows[0]))
	head := wrapHead(rows[0])
	for _, r := range append(slices.Clone(head), rows[1:]...) {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range append(head, rows[1:]...) {
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if i == 0 {
				fmt.Fprintf(w, "  %s%s", c, pad)
			} else {
				fmt.Fprintf(w, "  %s%s", pad, c)
			}
		}
		fmt.Fprintln(w)
	}
}

// wrapHead breaks long titles into several lines.
func wrapHead(head row) (lines []row) {
	for i, title := range head {
		n := 0
		line := ""
		put := func() {
			for len(lines) <= n {
				lines = append(lines, make(row, len(head)))
			}
			lines[n][i] = line
			n++
		}
		for word := range strings.FieldsSeq(title) {
			if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > 16 {
				put()
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		put()
	}
	return lines
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
