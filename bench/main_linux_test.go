package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tether/bench/internal/control"
	"tether/bench/internal/report"
	"tether/broker/memory"
	"tether/hub"
	"tether/internal/long"
	"tether/transport"
)

// The test binary is the program when it is started by a test, so that processes are real.
func TestMain(m *testing.M) {
	const asProgram = "TETHER_BENCH_AS_PROGRAM"
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Setenv(asProgram, "1")
	os.Exit(m.Run())
}

func bench(t *testing.T, args ...string) (out, errOut string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	err = dispatch(t.Context(), args, &o, &e)
	return o.String(), e.String(), err
}

func TestARunMeasuresOurHubBesideTheLimit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new.json")
	args := []string{"run", "-scale", "0.01", "-times", "0.1", "-reps", "2", "-json", path}
	out, errOut, err := bench(t, append(args, long.Or([]string{"targeted"}, []string{"targeted", "idle", "storm"})...)...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := report.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Runs {
		if r.Check != nil && (r.Check.Faults() > 0 || r.Check.Received == 0) {
			t.Errorf("%s on %s: %+v", r.Scenario, r.Peer, r.Check)
		}
		for name, v := range r.Metrics {
			if v < 0 && !strings.HasSuffix(name, "bytes") {
				t.Errorf("%s on %s: %s = %v", r.Scenario, r.Peer, name, v)
			}
		}
	}
	for _, s := range f.Scenarios {
		for _, peer := range f.Peers(s.Name) {
			if v := f.Value(s.Name, peer, s.Columns[0]); v.N == 0 { // on a busy machine nothing may arrive within a window of this length
				t.Errorf("%s on %s: %s has %d repetitions", s.Name, peer, s.Columns[0], v.N)
			}
		}
	}
	if !strings.Contains(out, "CPU per delivery") || !strings.Contains(errOut, "targeted on hub") {
		t.Errorf("table:\n%s\nprogress:\n%s", out, errOut)
	}

	page, _, err := bench(t, "report", "-o", "-", path, path)
	if err != nil || !strings.Contains(page, "<svg") {
		t.Errorf("report: %v, %d bytes", err, len(page))
	}
	if _, _, err := bench(t, "compare", path, path); err != nil {
		t.Errorf("a report compared with itself: %v", err)
	}
	for i := range f.Runs {
		if f.Runs[i].Check != nil {
			f.Runs[i].Check.Lost++
		}
	}
	worse := filepath.Join(t.TempDir(), "worse.json")
	if err := f.Save(worse); err != nil {
		t.Fatal(err)
	}
	if out, _, err := bench(t, "compare", path, worse); !errors.Is(err, errWorse) || !strings.Contains(out, "WORSE") {
		t.Errorf("a loss: %v\n%s", err, out)
	}
}

func TestLoadDrivesAServerAndReports(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "serve", "-stdin", "-for", "1m")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a control.Announcement
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "load.json")
	out, _, err := bench(t, "load", "-url", a.URL, "-conns", "40", "-per-process", "15", "-warm", "50ms", "-time", "300ms",
		"-emit", "echo", "-rate", "400", "-ack", "-json", path)
	if err != nil {
		t.Fatalf("load: %v\n%s", err, out)
	}
	f, err := report.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	m := f.Runs[0].Metrics
	if m["up"] != 40 || m["unanswered"] != 0 || m["closed"] != 0 || f.Runs[0].Latency.Count() == 0 {
		t.Errorf("%v, %d answers timed", m, f.Runs[0].Latency.Count())
	}
}

// mute is the URL of a hub that answers nothing.
func mute(t *testing.T) string {
	t.Helper()
	up := make(chan struct{})
	h, err := hub.New(memory.NewBus().Broker(), hub.Options{DrainWindow: -1, OnStart: func(context.Context, *hub.Hub) error {
		close(up)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.Of("/").On("echo", func(context.Context, *hub.Socket, *hub.Message) error { return nil })
	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sockets)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }() // received in the cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		sockets.Close()
		server.Close()
	})
	<-up
	return server.URL
}

func TestLoadFailsWhenEventsAreNotAnswered(t *testing.T) {
	t.Parallel()
	out, _, err := bench(t, "load", "-url", mute(t), "-name", "mute", "-conns", "3", "-warm", "0", "-time", "100ms", "-emit", "echo", "-rate", "100", "-ack")
	if err == nil || !strings.Contains(err.Error(), "events were not answered") {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{`answer p50, ms +–`, `unanswered +\d+`, ` mute\n`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

func TestAnInterruptedRunReportsWhatItHas(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	path := filepath.Join(t.TempDir(), "part.json")
	// The first progress line of the second repetition ends it.
	r, w := io.Pipe()
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "[2/") {
				cancel()
			}
		}
	}()
	var out bytes.Buffer
	err := dispatch(ctx, []string{"run", "-scale", "0.002", "-times", "0.05", "-reps", "9", "-json", path, "broadcast"}, &out, w)
	w.Close()
	<-seen
	if err != nil {
		t.Fatal(err)
	}
	f, err := report.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Interrupted || len(f.Runs) != 1 || !strings.Contains(out.String(), "Interrupted") {
		t.Errorf("interrupted %v with %d runs, want true with 1:\n%s", f.Interrupted, len(f.Runs), out.String())
	}
}

func TestARepetitionThatFailsIsInTheReportAndInTheExitStatus(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // where there is no Redis
	path := filepath.Join(t.TempDir(), "failed.json")
	out, _, err := bench(t, "run", "cluster", "-scale", "0.002", "-reps", "1", "-json", path)
	if err == nil || !strings.Contains(err.Error(), "redis-server on PATH") || !strings.Contains(out, "repetition failed") {
		t.Errorf("%v\n%s", err, out)
	}
	f, err := report.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Runs) != 2 || f.Runs[1].Failed == "" || f.Interrupted {
		t.Errorf("%d runs, %+v", len(f.Runs), f.Runs)
	}
}

func TestMistakesOnTheCommandLineAreExplained(t *testing.T) {
	for _, args := range [][]string{
		{}, {"fly"}, {"run", "nothing"}, {"run", "-peer", "nobody"}, {"run", "-x"}, {"load"}, {"load", "-url", "http://127.0.0.1:1", "-conns", "0"},
		{"serve", "-server", "x"}, {"serve", "what"}, {"run", "nothing", "-reps", "1"}, {"load", "what", "-url", "http://127.0.0.1:1"}, {"serve", "-control", "0.0.0.0:1"}, {"report"}, {"compare", "one"},
	} {
		if out, errOut, err := bench(t, args...); !errors.Is(err, errUsage) || errOut == "" || out != "" {
			t.Errorf("bench %v: %v, %q, %q", args, err, out, errOut)
		}
	}
	for _, args := range [][]string{{"-h"}, {"run", "-h"}, {"load", "--help"}, {"serve", "-h"}, {"report", "-h"}, {"compare", "-h"}, {"run", "-list"}} {
		if out, errOut, err := bench(t, args...); err != nil || len(out) < 300 || errOut != "" {
			t.Errorf("bench %v: %v, %d bytes of help, %q", args, err, len(out), errOut)
		}
	}
}
