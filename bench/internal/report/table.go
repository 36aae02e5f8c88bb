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

// table is what a scenario comes to: a line for each figure, and a column for each server, so that it is as
// narrow as there are few servers.
func (f *File) table(s scenario.Scenario) (rows []row) {
	peers := f.Peers(s.Name)
	rows = append(rows, append(row{""}, peers...))
	add := func(title string, of func(peer string) string) {
		r := row{title}
		for _, peer := range peers {
			r = append(r, of(peer))
		}
		rows = append(rows, r)
	}
	for _, c := range s.Columns {
		m := MetricOf(c)
		title := m.Title
		if m.Unit != "" && m.Unit != "/s" {
			title += ", "
		}
		add(title+m.Unit, func(peer string) string { return cell(f.Value(s.Name, peer, c)) })
	}
	for _, y := range f.yardsticks(s) {
		for _, c := range s.Ratios {
			add(MetricOf(c).Title+" ÷ "+y, func(peer string) string {
				if peer == y {
					return "1"
				}
				return cell(f.Ratio(s.Name, peer, y, c))
			})
		}
	}
	if s.Kind == scenario.Emit {
		add("lost, doubled, inverted, foreign", func(peer string) string {
			c := f.Faults(s.Name, peer)
			return fmt.Sprintf("%d, %d, %d, %d", c.Lost, c.Doubled, c.Inverted, c.Foreign)
		})
		if slices.ContainsFunc(peers, func(peer string) bool { return f.Value(s.Name, peer, "failed").Max > 0 }) {
			add("failed emits", func(peer string) string { return number(f.Value(s.Name, peer, "failed").Max) })
		}
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
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range rows {
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

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
