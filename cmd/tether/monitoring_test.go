package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"tether/internal/backend"
	"tether/internal/client"
)

// realPart is the path of a program that a test needs, or the test is skipped.
func realPart(t *testing.T, name, what string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatalf("%s is not installed, and TETHER_TEST_REQUIRE_REAL=1", name)
		}
		t.Skipf("%s is not installed: %s", name, what)
	}
	return path
}

// rules are the alerts of deploy/, by name.
func rules(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, r := range file.Groups[0].Rules {
		all[r.Alert] = r.Expr
	}
	return all
}

// panels are the questions of the dashboard, by the title of their panel.
func panels(t *testing.T) map[string][]string {
	t.Helper()
	var file struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile("../../deploy/grafana/tether.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$job", "tether", "$instance", ".*", "$__rate_interval", "1m")
	all := map[string][]string{}
	for _, p := range file.Panels {
		for _, target := range p.Targets {
			all[p.Title] = append(all[p.Title], fill.Replace(target.Expr))
		}
	}
	return all
}

func TestEachAlertFiresWhenItShouldAndNoneOtherwise(t *testing.T) {
	t.Parallel()
	promtool := realPart(t, "promtool", "the alerts in deploy/prometheus are not tested")
	cmd := exec.Command(promtool, "test", "rules", "alerts_test.yaml")
	cmd.Dir = "../../deploy/prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(cmd.Dir, "alerts_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for alert := range rules(t) {
		if !strings.Contains(string(text), `alertname="`+alert+`"`) {
			t.Errorf("alerts_test.yaml does not let %s fire", alert)
		}
	}
}

// prometheus scrapes nodes.
type prometheus struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, nodes ...*process) *prometheus {
	t.Helper()
	binary := realPart(t, "prometheus", "the dashboard and the alerts are not checked against real series")
	dir := t.TempDir()
	configurePrometheus(t, dir+"/prometheus.yaml", nodes)
	addr := backend.FreeAddress(t)
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--config.file="+dir+"/prometheus.yaml", "--storage.tsdb.path="+dir+"/data",
		"--web.listen-address="+addr, "--enable-feature=native-histograms,exemplar-storage")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // the cleanup waits for it
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended; log.Close() })
	p := &prometheus{t, "http://" + addr}
	for began, runs := time.Now(), true; runs && time.Since(began) < patience; time.Sleep(50 * time.Millisecond) {
		if res, err := http.Get(p.url + "/-/ready"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return p
			}
		}
		select {
		case <-ended:
			runs = false
		default:
		}
	}
	text, _ := os.ReadFile(dir + "/log")
	t.Fatalf("prometheus does not start at %s:\n%s", addr, text)
	return nil
}

func configurePrometheus(t *testing.T, file string, nodes []*process) {
	t.Helper()
	alerts, err := filepath.Abs("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, n := range nodes {
		targets = append(targets, fmt.Sprintf("%q", n.addr))
	}
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: tether
    authorization: {type: Bearer, credentials: %s}
    static_configs: [{targets: [%s]}]
`, alerts, testEmitKey, strings.Join(targets, ", "))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// query asks for an instant vector and returns how many elements it has.
func (p *prometheus) query(expr string) (n int, problem string) {
	p.t.Helper()
	var out struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	p.get("/api/v1/query?query="+url.QueryEscape(expr), &out)
	return len(out.Data.Result), out.Error
}

func (p *prometheus) get(path string, into any) {
	p.t.Helper()
	res, err := http.Get(p.url + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		p.t.Fatalf("%s: %v: %s", path, err, text)
	}
}

// until asks until there are at least n elements.
func (p *prometheus) until(expr string, n int) {
	p.t.Helper()
	for began := time.Now(); time.Since(began) < 2*patience; time.Sleep(100 * time.Millisecond) {
		got, problem := p.query(expr)
		if problem != "" {
			p.t.Fatalf("%s: %s", expr, problem)
		}
		if got >= n {
			return
		}
	}
	p.t.Fatalf("%s never had %d elements", expr, n)
}

var metricName = regexp.MustCompile(`\b(?:tether|socket_io|process)_[a-z0-9_]+`)

// TestTheDashboardAndTheAlertsAskForRealSeries with a real Prometheus that scrapes real nodes: each question is
// understood, and each series that it names is there.
func TestTheDashboardAndTheAlertsAskForRealSeries(t *testing.T) {
	t.Parallel()
	realPart(t, "prometheus", "the dashboard and the alerts are not checked against real series")
	node := start(t, enough).ready()
	c := dialUser(t, client.Options{URL: node.url()}, "42")
	for range 70 { // one in 64 is timed
		reaches(t, c, "42", node)
	}
	p := startPrometheus(t, node)
	p.until(`rate(tether_emits_total[1m])`, 1) // two scrapes

	questions := map[string]string{}
	for name, expr := range rules(t) {
		questions["alert "+name] = expr
	}
	for title, exprs := range panels(t) {
		for i, expr := range exprs {
			questions[fmt.Sprintf("panel %s, %d", title, i)] = expr
		}
	}
	if len(questions) < 40 {
		t.Errorf("there are only %d questions", len(questions))
	}
	var series []string
	for name, expr := range questions {
		if _, problem := p.query(expr); problem != "" {
			t.Errorf("%s: %s: %s", name, expr, problem)
		}
		series = append(series, metricName.FindAllString(expr, -1)...)
	}
	slices.Sort(series)
	for _, name := range slices.Compact(series) {
		if strings.HasSuffix(name, "_bucket") {
			continue // this Prometheus takes the native histogram instead; others are in the next test
		}
		p.until(name, 1) // a scrape that takes too long has it be away for a moment
	}
	p.until(`histogram_count(tether_emit_to_write_seconds) > 0`, 1)
	for title, exprs := range panels(t) {
		if n, _ := p.query(exprs[0]); n == 0 && !strings.HasPrefix(title, "Coming") { // nobody has gone
			t.Errorf("the panel %s shows nothing", title)
		}
	}
	if n, _ := p.query(`ALERTS{alertstate="firing"}`); n > 0 {
		t.Errorf("%d alerts fire on a healthy node", n)
	}
}

// TestClassicBucketsAreThereForAPrometheusWithoutNativeHistograms.
func TestClassicBucketsAreThereForAPrometheusWithoutNativeHistograms(t *testing.T) {
	t.Parallel()
	node := start(t, enough).ready()
	got := node.request(http.MethodGet, "/metrics", "Bearer "+testEmitKey, "").body
	if n := strings.Count(got, "\ntether_emit_to_write_seconds_bucket{"); n != 11 {
		t.Errorf("%d buckets, want 10 and +Inf", n)
	}
}
