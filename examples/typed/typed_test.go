// Package typed tests the types that a front end has from the events of its server.
package typed

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tether/internal/long"
)

// compiler returns what runs the TypeScript compiler on a folder, with npm's packages in place.
func compiler(t *testing.T) func(dir string) (output string, ok bool) {
	t.Helper()
	modules := os.Getenv("TETHER_NODE_MODULES")
	if modules == "" {
		modules = "../../internal/interop/node_modules"
	}
	modules, err := filepath.Abs(modules)
	if err != nil {
		t.Fatal(err)
	}
	tsc := filepath.Join(modules, "typescript", "bin", "tsc")
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(tsc)
	}
	if err != nil {
		why := "the TypeScript compiler is missing: run npm ci in internal/interop, or set TETHER_NODE_MODULES: " + err.Error()
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return func(dir string) (string, bool) {
		t.Helper()
		if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), node, tsc, "-p", dir)
		out, err := cmd.CombinedOutput()
		return string(out), err == nil
	}
}

// module is a copy of this example as a module of its own, beside this one.
func module(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"events/events.go", "types/main.go", "web/board.ts", "web/events.ts", "web/tsconfig.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), strings.ReplaceAll(string(text), "tether/examples/typed/", "board/"))
	}
	write(t, filepath.Join(dir, "go.mod"), "module board\n\ngo 1.26.0\n")
	write(t, filepath.Join(dir, "go.work"), "go 1.26.0\n\nuse (\n\t.\n\t"+root+"\n)\n")
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, path, old, new string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		t.Fatalf("%s does not have %s", path, old)
	}
	write(t, path, strings.ReplaceAll(string(text), old, new))
}

// generate runs the example's own program.
func generate(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./types")
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go run ./types: %v\n%s", err, stderr.String())
	}
	return string(out)
}

func TestAFrontEndThatDoesNotFitDoesNotCompile(t *testing.T) {
	long.Only(t)
	compile := compiler(t)
	dir := module(t)
	web := filepath.Join(dir, "web")
	path := filepath.Join(web, "board.ts")

	if out, ok := compile(web); !ok {
		t.Fatalf("as it is, it does not compile:\n%s", out)
	}
	want, err := os.ReadFile("web/events.ts")
	if err != nil {
		t.Fatal(err)
	}
	if got := generate(t, dir); got != string(want) {
		t.Errorf("go run ./examples/typed/types > examples/typed/web/events.ts gives something else:\n%s", got)
	}

	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mistakes := []struct{ name, code, want string }{
		{"a wrong argument", `socket.emit("typing", 7);`, "Argument of type 'number' is not assignable"},
		{"an event that is not there", `socket.emit("types", "x");`, `Argument of type '"types"' is not assignable`},
		{"an event that only the server emits", `socket.emit("writes", "me");`, `Argument of type '"writes"' is not assignable`},
		{"an event that never comes", `socket.on("typing", () => {});`, `Argument of type '"typing"' is not assignable`},
		{"an answer of another type", `socket.on("confirm", (q, answer) => answer(q.text));`, "Argument of type 'string' is not assignable to parameter of type 'boolean'"},
		{"a refusal that is not looked at", `socket.emit("post", { title: "t", color: "pink" }, (note) => print(note));`, "Argument of type 'Note | null' is not assignable"},
		{"a field that is missing", `post({ title: "t" });`, "Property 'color' is missing"},
		{"a constant that there is not", `post({ title: "t", color: "blue" });`, `Type '"blue"' is not assignable to type 'Color'`},
	}
	code := string(right)
	for _, m := range mistakes {
		code += m.code + "\n"
	}
	write(t, path, code)
	out, ok := compile(web)
	for _, m := range mistakes {
		if ok || !strings.Contains(out, m.want) {
			t.Errorf("%s: the compiler does not say %q:\n%s", m.name, m.want, out)
		}
	}
	if got := strings.Count(out, "error TS"); got != len(mistakes) {
		t.Errorf("%d errors, want %d:\n%s", got, len(mistakes), out)
	}

	write(t, path, string(right))
	replace(t, filepath.Join(dir, "events", "events.go"), "Title string   `json:\"title\"`", "Heading string `json:\"heading\"`")
	write(t, filepath.Join(web, "events.ts"), generate(t, dir))
	if out, ok := compile(web); ok || !strings.Contains(out, "Property 'title' does not exist") {
		t.Errorf("a field was renamed in Go, and the compiler says %q", out)
	}
}
