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
// that failed, is worse whatever the spread. Servers are compared under their names; where each report
// has one server, those two are, whatever they are called.
func Compare(old, new *File, spread float64) (changes []Change) {
	for _, s := range new.Scenarios {
		for _, p := range pairs(old, new, s) {
			changes = append(changes, p.faults()...)
			for _, name := range s.Columns {
				m := MetricOf(name)
				if m.Better == 0 {
					continue
				}
				if c := p.change(name); c.Old.N > 0 && c.New.N > 0 {
					c.judge(m.Better, spread)
					changes = append(changes, c)
				}
			}
		}
	}
	return changes
}

// pair is a server of each of two reports, in a scenario.
type pair struct {
	scenario       scenario.Scenario
	old, new       *File
	before, behind string // what the server is called in old, and in new
}

func pairs(old, new *File, s scenario.Scenario) (all []pair) {
	measured := func(f *File) []string {
		return slices.DeleteFunc(f.Peers(s.Name), func(peer string) bool { return peer == s.Limit })
	}
	before, behind := measured(old), measured(new)
	if len(before) == 1 && len(behind) == 1 {
		return []pair{{s, old, new, before[0], behind[0]}}
	}
	for _, peer := range behind {
		if slices.Contains(before, peer) {
			all = append(all, pair{s, old, new, peer, peer})
		}
	}
	return all
}

// name is that of the server, or both of its names.
func (p pair) name() string {
	if p.before == p.behind {
		return p.behind
	}
	return p.before + " → " + p.behind
}

// change is a figure of both. It is not judged yet.
func (p pair) change(metric string) Change {
	s := p.scenario
	c := Change{Scenario: s.Name, Peer: p.name(), What: MetricOf(metric).Title}
	if slices.Contains(s.Ratios, metric) {
		c.Old, c.New = p.old.Ratio(s.Name, p.before, s.Limit, metric), p.new.Ratio(s.Name, p.behind, s.Limit, metric)
		if c.Old.N > 0 && c.New.N > 0 {
			c.What += " ÷ " + s.Limit
			return c
		}
	}
	c.Old, c.New = p.old.Value(s.Name, p.before, metric), p.new.Value(s.Name, p.behind, metric)
	return c
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

// faults are what went wrong in one report more often than in the other.
func (p pair) faults() (changes []Change) {
	name := p.scenario.Name
	per := func(f *File, peer string, n uint64) Summary {
		runs := len(f.of(name, peer))
		v := float64(n) / float64(max(runs, 1))
		return Summary{v, v, v, runs}
	}
	a, b := p.old.Faults(name, p.before), p.new.Faults(name, p.behind)
	faults := []struct {
		what     string
		old, new uint64
	}{
		{"lost", a.Lost, b.Lost}, {"doubled", a.Doubled, b.Doubled}, {"inverted", a.Inverted, b.Inverted}, {"foreign", a.Foreign, b.Foreign},
		{"failed emits", total(p.old, name, p.before, false), total(p.new, name, p.behind, false)},
		{"failed connections", total(p.old, name, p.before, true), total(p.new, name, p.behind, true)},
		{"failed repetitions", p.old.failed(name, p.before), p.new.failed(name, p.behind)},
	}
	for _, f := range faults {
		c := Change{Scenario: name, Peer: p.name(), What: f.what + " a repetition", Old: per(p.old, p.before, f.old), New: per(p.new, p.behind, f.new)}
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
