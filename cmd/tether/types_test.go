package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tether/internal/long"
)

// writeTypes runs tether types in dir, and returns what it has written and its exit code.
func writeTypes(t *testing.T, dir, pkg string) (stdout, stderr string, code int) {
	t.Helper()
	environ := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TETHER_") }) // of the tests
	cmd := tetherCommand([]string{"types", pkg}, environ)
	var out, problems strings.Builder
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &problems
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

func TestTypesAreWrittenFromWhatAPackageDeclares(t *testing.T) {
	long.Only(t) // it compiles
	t.Parallel()
	want, err := os.ReadFile("../../examples/typed/web/events.ts")
	if err != nil {
		t.Fatal(err)
	}
	if got, stderr, code := writeTypes(t, ".", "../../examples/typed/events"); got != string(want) || code != exitDone {
		t.Errorf("exit %d, %s\n%s", code, stderr, got)
	}
}

// Another module has nothing of what the types are made with, and stays as it is.
func TestTypesAreWrittenForAnotherModule(t *testing.T) {
	long.Only(t) // its programs are built anew
	t.Parallel()
	want, err := os.ReadFile("../../examples/typed/web/events.ts")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copied := func(from, to string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, from))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copied("examples/typed/events/events.go", "internal/events/events.go")
	copied("go.sum", "go.sum") // so that nobody is asked for what is known
	module := "module board\n\ngo 1.26.0\n\nrequire tether v0.0.0\n\nreplace tether => " + root + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, stderr, code := writeTypes(t, dir, "./internal/events"); got != string(want) || code != exitDone {
		t.Errorf("exit %d, %s\n%s", code, stderr, got)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err != nil || string(text) != module {
		t.Errorf("its go.mod has become %s (%v)", text, err)
	}
}

func TestAPackageWithoutEventsIsAMistakeThatSaysWhatIsRight(t *testing.T) {
	t.Parallel()
	for pkg, want := range map[string]string{
		"../../hub": "var ServerToClient = []event.Declared{",
		".":         "a package of their own",
		"./nowhere": "no package here",
		"fmt":       "not in the module of this directory",
		"../...":    "more than one package",
	} {
		if out, stderr, code := writeTypes(t, ".", pkg); out != "" || code != exitMistake || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %q, %s", pkg, code, out, stderr)
		}
	}
}
