package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"tether/bench/internal/hist"
	"tether/bench/internal/scenario"
)

//go:embed page.html
var pageText string

// section is a scenario on the page.
type section struct {
	Name, Title, About, Size string
	Tables                   []pageTable
	Plots                    []template.HTML
}

type pageTable struct {
	File string
	Head row
	Rows []row
	Note string
}

// WritePage writes a page of its own, without scripts and without anything to load, that shows the
// reports side by side.
func WritePage(w io.Writer, files []*File) error {
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return fmt.Errorf("report: page: %w", err)
	}
	data := struct {
		Files       []string
		Environment []row
		Sections    []section
	}{Environment: environmentRows(files)}
	for _, f := range files {
		data.Files = append(data.Files, f.Name)
	}
	for _, s := range scenarios(files) {
		data.Sections = append(data.Sections, newSection(s, files))
	}
	return t.Execute(w, data)
}

// scenarios are those that have runs in any of the files, in order.
func scenarios(files []*File) (all []scenario.Scenario) {
	for _, f := range files {
		for _, s := range f.Scenarios {
			known := slices.ContainsFunc(all, func(o scenario.Scenario) bool { return o.Name == s.Name })
			if !known && len(f.Peers(s.Name)) > 0 {
				all = append(all, s)
			}
		}
	}
	return all
}

func newSection(s scenario.Scenario, files []*File) section {
	sec := section{Name: s.Name, Title: s.Title, About: s.About, Size: describe(s)}
	latency := plot{title: "Latency percentiles", xLabel: "percentile", yLabel: "ms", logY: true, xTicks: percentTicks}
	handshake := plot{title: "Handshake percentiles", xLabel: "percentile", yLabel: "ms", logY: true, xTicks: percentTicks}
	received := plot{title: "Messages received over time", xLabel: "seconds", yLabel: "messages a second"}
	up := plot{title: "Connections over time", xLabel: "seconds", yLabel: "connections"}
	memory := plot{title: "Process memory over connections", xLabel: "connections", yLabel: "MiB"}
	resident := plot{title: "Resident memory over time", xLabel: "seconds", yLabel: "MiB"}
	for _, f := range files {
		own := f.scenario(s.Name)
		if own.Name == "" || len(f.Peers(s.Name)) == 0 {
			continue
		}
		rows := f.table(own)
		note := &strings.Builder{}
		f.problems(note, own)
		sec.Tables = append(sec.Tables, pageTable{f.Name, rows[0], rows[1:], note.String()})
		for _, peer := range f.Peers(s.Name) {
			name := peer
			if len(files) > 1 {
				name += " in " + f.Name
			}
			latency.add(percentiles(name, f.merged(s.Name, peer, func(r *Run) *hist.Hist { return r.Latency })))
			handshake.add(percentiles(name, f.merged(s.Name, peer, func(r *Run) *hist.Hist { return r.Handshake })))
			for _, r := range f.of(s.Name, peer) {
				received.add(series(name, r, func(p Point) float64 { return p.Received }))
				up.add(series(name, r, func(p Point) float64 { return float64(p.Up) }))
				resident.add(series(name, r, func(p Point) float64 { return float64(p.Resident) / (1 << 20) }))
				memory.add(steps(name, r))
			}
		}
	}
	plots := []plot{latency, received, resident}
	switch s.Kind {
	case scenario.Idle:
		plots = []plot{memory}
	case scenario.Storm:
		plots = []plot{handshake, up}
	case scenario.Hold:
		plots = []plot{up, resident}
	}
	if s.Name == LoadScenario {
		plots = []plot{latency, handshake, received, up}
	}
	for _, p := range plots {
		if svg := p.svg(); svg != "" {
			sec.Plots = append(sec.Plots, svg)
		}
	}
	return sec
}

// LoadScenario is the name under which bench load reports.
const LoadScenario = "load"

func (p *plot) add(c curve) {
	if len(c.x) > 0 {
		p.curves = append(p.curves, c)
	}
}

var percentTicks = []tick{{0, "0"}, {atPercentile(0.5), "50"}, {1, "90"}, {2, "99"}, {3, "99.9"}, {4, "99.99"}, {5, "99.999"}}

// atPercentile stretches the tail: 90 %, 99 % and 99.9 % are equally far from each other.
func atPercentile(q float64) float64 { return -math.Log10(1 - q) }

func percentiles(name string, h *hist.Hist) (c curve) {
	c.name = name
	if h.Count() == 0 {
		return c
	}
	last := min(math.Log10(float64(h.Count())), 5)
	for x := 0.0; x <= last; x += 0.05 {
		c.x = append(c.x, x)
		c.y = append(c.y, max(float64(h.Quantile(1-math.Pow(10, -x)))/1e6, 1e-3))
	}
	return c
}

func series(name string, r Run, of func(Point) float64) (c curve) {
	c.name = name
	for _, p := range r.Series {
		c.x = append(c.x, p.Seconds)
		c.y = append(c.y, of(p))
	}
	return c
}

func steps(name string, r Run) (c curve) {
	c.name = name
	for _, s := range r.Steps {
		c.x = append(c.x, float64(s.Connections))
		c.y = append(c.y, float64(s.Process)/(1<<20))
	}
	return c
}

// environmentRows has a column for each file.
func environmentRows(files []*File) []row {
	lines := []struct {
		name string
		of   func(*File) string
	}{
		{"made", func(f *File) string { return f.Made.UTC().Format("2006-01-02 15:04 UTC") }},
		{"command", func(f *File) string { return "bench " + strings.Join(f.Command, " ") }},
		{"commit", func(f *File) string { return f.Environment.Commit }},
		{"Go", func(f *File) string { return f.Environment.Go }},
		{"system", func(f *File) string { return f.Environment.System + " " + f.Environment.Kernel }},
		{"processor", func(f *File) string { return fmt.Sprintf("%s, %d cores", f.Environment.CPU, f.Environment.Cores) }},
		{"memory", func(f *File) string { return fmt.Sprintf("%.1f GiB", float64(f.Environment.Memory)/(1<<30)) }},
		{"descriptors a process", func(f *File) string { return number(float64(f.Environment.Files)) }},
		{"others", func(f *File) string {
			all := maps.Clone(f.Environment.Brokers)
			if all == nil {
				all = map[string]string{}
			}
			maps.Copy(all, f.Environment.Peers)
			var parts []string
			for _, k := range sortedKeys(all) {
				parts = append(parts, k+" "+all[k])
			}
			return strings.Join(parts, ", ")
		}},
		{"complete", func(f *File) string {
			if f.Interrupted {
				return "no, interrupted"
			}
			return "yes"
		}},
	}
	var rows []row
	for _, l := range lines {
		r := row{l.name}
		for _, f := range files {
			r = append(r, l.of(f))
		}
		rows = append(rows, r)
	}
	return rows
}
