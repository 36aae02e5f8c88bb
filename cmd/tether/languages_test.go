package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"tether/internal/client"
)

func TestAnyLanguageEmits(t *testing.T) {
	t.Parallel()
	p := start(t, enough).ready()
	c := dialUser(t, client.Options{URL: p.url()}, "42")
	for _, x := range []struct {
		program, file string
		says, event   string
	}{
		{"sh", "emit.sh", `{"nodes":1}`, `/users/ping [{"hello":"from curl"}]`},
		{"node", "emit.mjs", "told, through 1 node(s)", `/users/ping [{"hello":"from Node"}]`},
		{"python3", "emit.py", "offline: ['43']", `/users/ping [{"hello": "from Python"}]`},
	} {
		t.Run(x.file, func(t *testing.T) {
			needs := x.program
			if needs == "sh" {
				needs = "curl"
			}
			if _, err := exec.LookPath(needs); err != nil {
				if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
					t.Fatal(err)
				}
				t.Skipf("%s is not installed", needs)
			}
			cmd := exec.Command(x.program, "../../examples/languages/"+x.file)
			cmd.Env = append(os.Environ(), "HUB_URL="+p.url(), "HUB_KEY="+testEmitKey)
			out, err := cmd.CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != x.says {
				t.Fatalf("got %s, %v; want %s", out, err, x.says)
			}
			if got := next(t, c); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(x.event, " ", "") {
				t.Errorf("got %s, want %s", got, x.event)
			}
		})
	}
}
