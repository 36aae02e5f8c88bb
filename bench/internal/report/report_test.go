package report

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tether/bench/internal/check"
	"tether/bench/internal/hist"
	"tether/bench/internal/scenario"
)

var update = flag.Bool("update", false, "write the golden files")

// sample is a report with every kind of scenario, the same each time.
func sample(name string, cpu ...float64) *File {
	f := &File{
		Version: Version, Name: name, Made: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Command: []string{"run", "-reps", "2"},
		Environment: Environment{Commit: "0123456789ab", Go: "go1.26.0", System: "linux/amd64", Kernel: "6.1", CPU: "a processor", Cores: 2,
			Memory: 8 << 30, Files: 20000, Brokers: map[string]string{"redis": "7.0"}},
		Scenarios: []scenario.Scenario{
			{Name: "targeted", Title: "Targeted <paced>", About: "About & more.", Kind: scenario.Emit, Conns: 5000, Size: 256, Limit: "phys",
				Columns: []string{"cpu_us", "p99_ms", "deliveries_s"}, Ratios: []string{"cpu_us"}},
			{Name: "idle", Title: "Idle", About: "Weight.", Kind: scenario.Idle, Conns: 200, Columns: []string{"bytes"}},
			{Name: "storm", Title: "Storm", About: "Handshakes.", Kind: scenario.Storm, Conns: 300, Columns: []string{"handshake_us"}},
		},
	}
	for i, us := range cpu {
		for _, peer := range []string{"phys", "hub"} {
			var h hist.Hist
			for d := range 1000 {
				h.Add(time.Duration(d+1) * time.Duration(len(peer)) * 10 * time.Microsecond)
			}
			r := Run{
				Scenario: "targeted", Peer: peer, Repetition: i + 1, Latency: &h, Check: &check.Counts{Received: 1000, Expected: 1000},
				Metrics: map[string]float64{"cpu_us": 10, "p99_ms": 1.5, "deliveries_s": 20000, "failed": 0},
				Series:  []Point{{Seconds: 1, Received: 10000, Resident: 5 << 20, Up: 10}, {Seconds: 2, Received: 20000, Resident: 6 << 20, Up: 10}},
			}
			if peer == "hub" {
				r.Metrics["cpu_us"] = us
				r.Errors = map[string]uint64{"<refused>": 3}
			}
			f.Runs = append(f.Runs, r)
		}
		f.Runs = append(f.Runs, Run{Scenario: "idle", Peer: "hub", Repetition: i + 1, Metrics: map[string]float64{"bytes": 5000},
			Steps: []Step{{Connections: 100, Process: 1 << 20}, {Connections: 200, Process: 2 << 20}}})
		f.Runs = append(f.Runs, Run{Scenario: "storm", Peer: "hub", Repetition: i + 1, Metrics: map[string]float64{"handshake_us": 100}, Handshake: f.Runs[0].Latency})
	}
	return f
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("%s, line %d: got\n%.200s\nwant\n%.200s\n(go test -update writes it anew)", path, i+1, strings.Join(a[min(i, len(a)):], "\n"), strings.Join(b[min(i, len(b)):], "\n"))
		}
	}
}

func TestTheTableIsAsWritten(t *testing.T) {
	var b bytes.Buffer
	if err := sample("one.json", 11, 12).Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.txt", b.Bytes())
}

func TestThePageIsAsWrittenAndLoadsNothing(t *testing.T) {
	var b bytes.Buffer
	if err := WritePage(&b, []*File{sample("one.json", 11, 12), sample("two.json", 13)}); err != nil {
		t.Fatal(err)
	}
	golden(t, "page.html", b.Bytes())
	for _, s := range []string{"<script", "src=", "href=", "url(", "@import", "<paced>", "<refused>"} {
		if strings.Contains(b.String(), s) {
			t.Errorf("the page contains %q", s)
		}
	}
}

func TestAReportSurvivesItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	f := sample("r.json", 11, 12)
	if err := f.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := f.Print(&a); err != nil {
		t.Fatal(err)
	}
	if err := got.Print(&b); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Errorf("read back:\n%s\nwant:\n%s", b.String(), a.String())
	}
	for _, text := range []string{"", "{}", `{"version":99}`, `{"version":1,"runs":[{"latency":{"n":5}}]}`} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("Load accepts %q", text)
		}
	}
}

func TestOnlyWhatIsBeyondTheSpreadIsWorse(t *testing.T) {
	tests := []struct {
		name     string
		old, new []float64
		spread   float64
		want     Verdict
	}{
		{"the same", []float64{11, 12, 13}, []float64{11, 12, 13}, 5, Same},
		{"a little more", []float64{12, 12, 12}, []float64{12.5, 12.5, 12.5}, 5, Same},
		{"much more", []float64{12, 12, 12}, []float64{14, 15, 14}, 5, Worse},
		{"much more, but it may be", []float64{12, 12, 12}, []float64{14, 15, 14}, 50, Same},
		{"more, but some are as good", []float64{11, 12, 15}, []float64{14, 16, 17}, 5, Same},
		{"much less", []float64{12, 12, 12}, []float64{8, 8, 8}, 5, Better},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changes := Compare(sample("a", tt.old...), sample("b", tt.new...), tt.spread)
			var got Verdict
			for _, c := range changes {
				if c.What == "CPU per delivery ÷ phys" {
					got = c.Verdict
				} else if c.Verdict != Same {
					t.Errorf("%+v, want it to be the same", c)
				}
			}
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAFaultMoreIsWorseWhateverTheSpread(t *testing.T) {
	old, new := sample("a", 12, 12), sample("b", 12, 12)
	for i := range new.Runs {
		if new.Runs[i].Peer == "hub" && new.Runs[i].Check != nil {
			new.Runs[i].Check.Lost = 1
			break
		}
	}
	var b bytes.Buffer
	worse, err := PrintChanges(&b, Compare(old, new, 1000), false)
	if err != nil || worse != 1 || !strings.Contains(b.String(), "lost") {
		t.Errorf("worse %d, %v:\n%s", worse, err, b.String())
	}
	if worse, _ := PrintChanges(&b, Compare(new, old, 1000), false); worse != 0 {
		t.Errorf("a fault less is worse")
	}
}

func TestTwoServersOfDifferentNamesAreCompared(t *testing.T) {
	old, new := sample("a", 12, 12), sample("b", 24, 24)
	for i := range new.Runs {
		if new.Runs[i].Peer == "hub" {
			new.Runs[i].Peer = "node"
		}
	}
	var b bytes.Buffer
	worse, err := PrintChanges(&b, Compare(old, new, 5), false)
	if err != nil || worse != 1 || !strings.Contains(b.String(), "hub → node") {
		t.Errorf("worse %d, %v:\n%s", worse, err, b.String())
	}
}

func TestATableIsNoWiderThanATerminal(t *testing.T) {
	f := sample("one.json", 11, 12)
	for _, m := range Metrics { // bench load shows many, run a few for several servers
		f.Scenarios[0].Columns = append(f.Scenarios[0].Columns, m.Name)
	}
	for _, r := range f.Runs {
		for _, peer := range []string{"http://127.0.0.1:40000", "psychic"} {
			if r.Peer == "hub" {
				other := r
				other.Peer = peer
				f.Runs = append(f.Runs, other)
			}
		}
	}
	var b bytes.Buffer
	if err := f.Print(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if utf8.RuneCountInString(line) > 101 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.00123: "0.0012", 0.5: "0.5", 1: "1", 1.2345: "1.23", 99.96: "100", 123.4: "123", 1234: "1,234", 1234567: "1,234,567", -5000: "-5,000"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestARepetitionThatFailedIsWorse(t *testing.T) {
	old, new := sample("a", 12, 12), sample("b", 12, 12)
	new.Runs = append(new.Runs, Run{Scenario: "targeted", Peer: "hub", Repetition: 3, Failed: "nobody came up\nand more"})
	var b bytes.Buffer
	worse, err := PrintChanges(&b, Compare(old, new, 1000), false)
	if err != nil || worse != 1 || !strings.Contains(b.String(), "failed repetitions") {
		t.Errorf("worse %d, %v:\n%s", worse, err, b.String())
	}
	b.Reset()
	if err := new.Print(&b); err != nil || !strings.Contains(b.String(), "1 × repetition failed: nobody came up\n") {
		t.Errorf("%v:\n%s", err, b.String())
	}
}
