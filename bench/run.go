package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tether/bench/internal/load"
	"tether/bench/internal/proc"
	"tether/bench/internal/report"
	"tether/bench/internal/runner"
	"tether/bench/internal/scenario"
)

const runText = `
bench run [flags] [NAME…] runs scenarios, all of them or those named, by name or by
pattern ('cluster*').

For each repetition it starts fresh processes on loopback: the server's nodes, a broker from PATH
where the scenario has one (redis-server, nats-server), an emitter, and the clients. The servers
take turns within a repetition, with the scenario's limit as one of them. The table shows medians
with half the distance between the extremes, and ratios to the limit, taken repetition by repetition.

Everything ends by itself, and at Ctrl-C with a report of the repetitions so far.`

func (c cli) run(ctx context.Context, args []string) error {
	f := c.flags("run", runText)
	list := f.Bool("list", false, "show the scenarios and the servers, and end")
	peers := f.String("peer", "hub", "servers to measure, separated by commas")
	reps := f.Int("reps", 3, "repetitions")
	jsonFile := f.String("json", "", "write every raw figure to this file")
	file := f.String("scenarios", "", "read scenarios from this JSON file instead of the built-in ones; -list -json FILE writes those")
	conns := f.Float64("scale", 1, "multiply the numbers of connections, for a quick look")
	times := f.Float64("times", 1, "multiply the times, for a quick look")
	per := f.Int("per-process", 0, "clients of one load process (default: what its descriptors allow)")
	nodeDir := f.String("node", "bench/node", "directory of server.mjs and its node_modules")
	profile := f.String("profile", "", "write CPU and heap profiles of our own nodes into this directory; it costs them a little")
	limit := f.Duration("max", time.Hour, "stop after this time, with the report so far")
	var env stringList
	f.Var(&env, "env", "NAME=VALUE for the servers, GOGC=200 say; may be repeated")
	names, help, err := c.parse(f, args)
	if help || err != nil {
		return err
	}
	all, err := scenarios(*file)
	if err != nil {
		return err
	}
	if *list {
		return c.list(all, *jsonFile)
	}
	cfg := runner.Config{NodeDir: *nodeDir, Env: env, Repetitions: *reps, PerProcess: *per, Profile: *profile}
	if cfg.Scenarios, err = scenario.Select(all, names); err != nil {
		return c.wrong(f, "%v", err)
	}
	for i, s := range cfg.Scenarios {
		cfg.Scenarios[i] = s.Scale(*conns, *times)
	}
	for name := range strings.SplitSeq(*peers, ",") {
		p, err := runner.PeerOf(name)
		if err != nil {
			return c.wrong(f, "%v", err)
		}
		if err := p.Available(*nodeDir); err != nil {
			return err
		}
		cfg.Peers = append(cfg.Peers, p)
	}
	if cfg.Self, err = runner.Executable(); err != nil {
		return err
	}
	files := proc.Descriptors()
	if cfg.PerProcess <= 0 {
		cfg.PerProcess = max(files-500, 100)
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	result := &report.File{Made: time.Now().UTC(), Command: append([]string{"run"}, args...), Environment: environment(files, cfg)}
	return c.measure(ctx, cfg, result, *jsonFile)
}

// measure runs what cfg says, and reports it, also in jsonFile unless that is "".
func (c cli) measure(ctx context.Context, cfg runner.Config, result *report.File, jsonFile string) error {
	bar := newBar(c.err)
	cfg.Progress = bar.run
	err := cfg.Run(ctx, result)
	bar.end()
	if e := result.Print(c.out); err == nil {
		err = e
	}
	if jsonFile != "" {
		if e := result.Save(jsonFile); e != nil {
			err = errors.Join(err, e)
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil // ended on request: the report says so
	}
	return err
}

func scenarios(file string) ([]scenario.Scenario, error) {
	if file == "" {
		return scenario.Builtin()
	}
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return scenario.Read(in)
}

func (c cli) list(all []scenario.Scenario, jsonFile string) error {
	if jsonFile != "" {
		data, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(jsonFile, append(data, '\n'), 0o644)
	}
	for _, s := range all {
		fmt.Fprintf(c.out, "%-18s %s\n", s.Name, s.Title)
		for _, line := range wrap(s.About, 96) {
			fmt.Fprintf(c.out, "    %s\n", line)
		}
	}
	fmt.Fprintln(c.out, "\nServers, for -peer:")
	for _, p := range runner.Peers {
		fmt.Fprintf(c.out, "%-18s %s\n", p.Name, p.About)
	}
	return nil
}

func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// environment looks around, and asks only for versions of what takes part.
func environment(files int, cfg runner.Config) report.Environment {
	e := report.ReadEnvironment(files)
	e.Brokers, e.Peers = map[string]string{}, map[string]string{}
	for _, s := range cfg.Scenarios {
		switch s.Broker {
		case "redis":
			e.Brokers["redis"] = word(report.CommandVersion("redis-server", "--version"), "v=")
		case "nats":
			e.Brokers["nats"] = strings.TrimPrefix(report.CommandVersion("nats-server", "--version"), "nats-server: ")
		}
	}
	for _, p := range cfg.Peers {
		if p.Available(cfg.NodeDir) == nil && (p.Name == "node" || p.Name == "psychic") {
			e.Peers["node"] = report.CommandVersion("node", "--version")
			e.Peers["socket.io"] = packageVersion(filepath.Join(cfg.NodeDir, "node_modules", "socket.io", "package.json"))
		}
	}
	return e
}

// word is the word of text that begins with prefix, without it.
func word(text, prefix string) string {
	for w := range strings.FieldsSeq(text) {
		if rest, ok := strings.CutPrefix(w, prefix); ok {
			return rest
		}
	}
	return text
}

func packageVersion(path string) string {
	var p struct{ Version string }
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &p) != nil {
		return "unknown"
	}
	return p.Version
}

// stringList is a flag that may be repeated.
type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, " ") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

// worker is a load process.
func (c cli) worker(ctx context.Context) error {
	proc.Descriptors()
	return load.Work(ctx, os.Stdin, c.out)
}
