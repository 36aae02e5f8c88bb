package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"tether/bench/internal/scenario"
)

// Change is a figure that two reports have.
type Change struct {
	Scenario string
	Peer     string
	What     string // the metric, with what it is divided by
	Old, New Summary
	Percent  float64 // of the median, in the direction of worse: above 0 is worse
	Verdict  Verdict
}

// Verdict is what a change means.
type Verdict int8

const (
	Same   Verdict = iota // within the spread, or the repetitions overlap
	Better                //
	Worse                 //
)

func (v Verdict) String() string { return [...]string{"same", "better", "WORSE"}[v] }

// Compare compares what both reports have. A figure is better or worse when its median differs by
// more than spread percent and the repetitions of the two do not overlap; ratios to the limit stand
// for the figures that they are made of. Any fault more in the check, and any connection or emit more
// that failed, is worse whatever the spread.
func Compare(old, new *File, spread float64) (changes []Change) {
	for _, s := range new.Scenarios {
		for _, peer := range new.Peers(s.Name) {
			if peer == s.Limit || !slices.Contains(old.Peers(s.Name), peer) {
				continue
			}
			changes = append(changes, compareFaults(old, new, s.Name, peer)...)
			for _, name := range s.Columns {
				m := MetricOf(name)
				if m.Better == 0 {
					continue
				}
				c := Change{Scenario: s.Name, Peer: peer, What: m.Title}
				if slices.Contains(s.Ratios, name) {
					c.Old, c.New = old.Ratio(s.Name, peer, s.Limit, name), new.Ratio(s.Name, peer, s.Limit, name)
					c.What += " ÷ " + s.Limit
				}
				if c.Old.N == 0 || c.New.N == 0 {
					c.What = m.Title
					c.Old, c.New = old.Value(s.Name, peer, name), new.Value(s.Name, peer, name)
				}
				if c.Old.N > 0 && c.New.N > 0 {
					c.judge(m.Better, spread)
					changes = append(changes, c)
				}
			}
		}
	}
	return changes
}

func (c *Change) judge(better int, spread float64) {
	switch {
	case c.Old.Median == 0 && c.New.Median == 0:
		return
	case c.Old.Median == 0:
		c.Percent = 100
	default:
		c.Percent = 100 * (c.New.Median - c.Old.Median) / c.Old.Median
	}
	if better > 0 {
		c.Percent = -c.Percent
	}
	overlap := c.New.Min <= c.Old.Max && c.Old.Min <= c.New.Max
	switch {
	case overlap:
	case c.Percent > spread:
		c.Verdict = Worse
	case c.Percent < -spread:
		c.Verdict = Better
	}
}

func compareFaults(old, new *File, name, peer string) (changes []Change) {
	per := func(f *File, n uint64) Summary {
		runs := len(f.of(name, peer))
		v := float64(n) / float64(max(runs, 1))
		return Summary{v, v, v, runs}
	}
	a, b := old.Faults(name, peer), new.Faults(name, peer)
	faults := []struct {
		what     string
		old, new uint64
	}{
		{"lost", a.Lost, b.Lost}, {"doubled", a.Doubled, b.Doubled}, {"inverted", a.Inverted, b.Inverted}, {"foreign", a.Foreign, b.Foreign},
		{"failed emits", total(old, name, peer, false), total(new, name, peer, false)},
		{"failed connections", total(old, name, peer, true), total(new, name, peer, true)},
		{"failed repetitions", old.failed(name, peer), new.failed(name, peer)},
	}
	for _, f := range faults {
		c := Change{Scenario: name, Peer: peer, What: f.what + " a repetition", Old: per(old, f.old), New: per(new, f.new)}
		switch {
		case c.New.Median > c.Old.Median:
			c.Percent, c.Verdict = 100, Worse
		case c.New.Median < c.Old.Median:
			c.Percent, c.Verdict = -100, Better
		default:
			continue // nearly always 0 and 0
		}
		changes = append(changes, c)
	}
	return changes
}

func total(f *File, name, peer string, connections bool) (n uint64) {
	s := f.scenario(name)
	if connections && (s.SlowEvery > 0 || s.ChurnEvery > 0) {
		return 0 // connections that end are what the scenario is about
	}
	for _, r := range f.of(name, peer) {
		m := r.Errors
		if connections {
			m = r.Failures
		}
		for _, k := range m {
			n += k
		}
	}
	return n
}

func (f *File) failed(name, peer string) (n uint64) {
	for _, r := range f.of(name, peer) {
		if r.Failed != "" {
			n++
		}
	}
	return n
}

func (f *File) scenario(name string) (s scenario.Scenario) {
	if i := slices.IndexFunc(f.Scenarios, func(s scenario.Scenario) bool { return s.Name == name }); i >= 0 {
		return f.Scenarios[i]
	}
	return s
}

// PrintChanges writes a table of the changes, all of them or those that are not the same, and
// returns how many are worse.
func PrintChanges(w io.Writer, changes []Change, all bool) (worse int, err error) {
	rows := []row{{"scenario", "server", "figure", "old", "new", "change", ""}}
	for _, c := range changes {
		if c.Verdict == Worse {
			worse++
		}
		if c.Verdict == Same && !all {
			continue
		}
		rows = append(rows, row{c.Scenario, c.Peer, c.What, cell(c.Old), cell(c.New), fmt.Sprintf("%+.1f%%", c.Percent), c.Verdict.String()})
	}
	b := &strings.Builder{}
	if len(rows) > 1 {
		printRows(b, rows)
		fmt.Fprintln(b, "\nA change above 0 is for the worse.")
	}
	fmt.Fprintf(b, "%d figures compared, %d worse.\n", len(changes), worse)
	_, err = io.WriteString(w, b.String())
	return worse, err
}
