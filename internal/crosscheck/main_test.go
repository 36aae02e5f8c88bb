package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPackageThatDoesNotCompileElsewhereIsNamed(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a function that is missing there": {"a.go": "package a\n\nimport \"syscall\"\n\nvar _ = syscall.Kill\n"},
		"a file for that system":           {"a.go": "package a\n", "a_windows.go": "package a\n\nfunc f() int { return \"\" }\n"},
		"a test":                           {"a.go": "package a\n", "a_test.go": "package a_test\n\nimport \"syscall\"\n\nvar _ = syscall.SIGSTOP\n"},
		"a syntax error":                   {"a.go": "package a\n", "a_windows.go": "package a\n\nfunc {\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files["go.mod"] = "module a\n\ngo 1.26\n"
			for file, text := range files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("GOWORK", "off")
			if _, err := check("windows/amd64", dir, "./..."); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "a")) {
				t.Errorf("windows: %v, want an error", err)
			}
			if n, err := check("linux/amd64", dir, "./..."); err != nil || n == 0 {
				t.Errorf("linux: %d packages, %v", n, err)
			}
		})
	}
}
