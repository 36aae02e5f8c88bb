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
	if s.Limit != "" {
		for _, c := range s.Ratios {
			head = append(head, MetricOf(c).Title+" ÷ "+s.Limit)
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
		if s.Limit != "" {
			for _, c := range s.Ratios {
				if peer == s.Limit {
					r = append(r, "1")
				} else {
					r = append(r, cell(f.Ratio(s.Name, peer, s.Limit, c)))
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
		for _, why := range sortedKeys(sums) {
			fmt.Fprintf(w, "  %s: %s × %s\n", peer, number(float64(sums[why])), why)
		}
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
