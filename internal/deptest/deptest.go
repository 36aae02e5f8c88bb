// Package deptest lets a package's own tests state what it must not depend on. It is called from
// inside each package: when a dependency changes, so does that package's test binary, and the test
// runs again. A single test elsewhere would be answered from the test cache.
package deptest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Forbid fails the test for each package that pkg depends on, directly or not, and that is one of the
// keys of forbidden or below one. The values say why; they are printed with the import chain. Imports
// of test files do not count.
func Forbid(t testing.TB, pkg string, forbidden map[string]string) {
	t.Helper()
	g := load(t, pkg)
	for _, dep := range g.order {
		for prefix, reason := range forbidden {
			if dep != pkg && under(dep, prefix) {
				t.Errorf("%s must not depend on %s: %s\n\t%s", pkg, dep, reason, strings.Join(g.chain(pkg, dep), " -> "))
			}
		}
	}
}

// Only fails the test for each package outside the standard library that pkg depends on, directly or
// not, unless it is one of allowed or below one.
func Only(t testing.TB, pkg string, allowed ...string) {
	t.Helper()
	g := load(t, pkg)
	for _, dep := range g.order {
		ok := dep == pkg || g.standard[dep] || slices.ContainsFunc(allowed, func(prefix string) bool { return under(dep, prefix) })
		if !ok {
			t.Errorf("%s may depend on the standard library and %q only, not on %s\n\t%s",
				pkg, allowed, dep, strings.Join(g.chain(pkg, dep), " -> "))
		}
	}
}

// OnHub fails the test unless pkg depends on the hub, on what is below it, and on others of ours that are named:
// on no transport, and on no driver.
func OnHub(t testing.TB, pkg string, others ...string) {
	t.Helper()
	Only(t, pkg, append([]string{
		"tether/hub", "tether/engine", "tether/cluster", "tether/broker",
		"tether/internal/socketio", "tether/internal/group", "tether/internal/budget", "tether/internal/wire",
	}, others...)...)
	NoDriver(t, pkg)
}

// NoDriver fails the test if pkg depends on a driver.
func NoDriver(t testing.TB, pkg string) {
	t.Helper()
	const why = "the program chooses the driver"
	Forbid(t, pkg, map[string]string{"tether/broker/redis": why, "tether/broker/nats": why, "tether/broker/memory": why})
}

func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")
}

// graph is what a package depends on.
type graph struct {
	order    []string // dependencies first
	imports  map[string][]string
	standard map[string]bool
}

func load(t testing.TB, pkg string) graph {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{.ImportPath}} {{.Standard}} {{join .Imports " "}}`, pkg)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list dependencies of %s: %v\n%s", pkg, err, stderr.String())
	}
	g := graph{imports: map[string][]string{}, standard: map[string]bool{}}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		path := fields[0]
		g.order = append(g.order, path)
		g.standard[path] = fields[1] == "true"
		g.imports[path] = fields[2:]
	}
	return g
}

// chain is a shortest chain of imports between two packages.
func (g graph) chain(from, to string) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at == to {
			break
		}
		for _, next := range g.imports[at] {
			if _, seen := before[next]; !seen {
				before[next] = at
				queue = append(queue, next)
			}
		}
	}
	var chain []string
	for at := to; at != ""; at = before[at] {
		chain = append(chain, at)
	}
	slices.Reverse(chain)
	return chain
}
