package interop

import (
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"tether/internal/long"
)

// TestOfficialSuites runs the cases of the official test suites of Engine.IO and Socket.IO, at their timings, against
// the conformance server on both carriers.
func TestOfficialSuites(t *testing.T) {
	long.Only(t)
	modules, err := nodeModules()
	need(t, err)
	node, err := exec.LookPath("node")
	need(t, err)
	binary := build(t, "tether/examples/conformance")
	carriers := map[string][]string{"portable": nil}
	if runtime.GOOS == "linux" {
		carriers["epoll"] = []string{"-epoll"}
	}
	var all sync.WaitGroup
	for _, suite := range []struct {
		name, flag string
		cases      int
	}{{"engine", "-engine", 24}, {"socket", "-suite", 32}} {
		for carrier, flags := range carriers {
			all.Go(func() { // all.Wait: they wait for most of the time
				t.Run(suite.name+"/"+carrier, func(t *testing.T) {
					base := startBinary(t, binary, 1, append([]string{suite.flag}, flags...)...)[0]
					cmd := exec.CommandContext(t.Context(), node, "suites.js", base, suite.name)
					cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
					cmd.Stderr = t.Output()
					out, err := cmd.Output()
					if err != nil {
						t.Fatal(err)
					}
					if n := readSuite(t, string(out)); n != suite.cases {
						t.Errorf("%d cases were run, want %d", n, suite.cases)
					}
				})
			})
		}
	}
	all.Wait()
}

// readSuite reports what suites.js has printed, and returns the number of cases.
func readSuite(t *testing.T, out string) (cases int) {
	for line := range strings.Lines(out) {
		var result struct {
			Case, Error     string
			Disturbed, Done bool
		}
		if err := json.Unmarshal([]byte(line), &result); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if result.Done {
			return cases
		}
		cases++
		t.Run(result.Case, func(t *testing.T) {
			switch {
			case result.Disturbed:
				t.Skipf("this machine is too busy for a case of fractions of a second: %s", result.Error)
			case result.Error != "":
				t.Error(result.Error)
			}
		})
	}
	t.Error("the suite has not come to its end")
	return cases
}
