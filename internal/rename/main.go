// Rename moves the module of the working directory to another path:
//
//	go run ./internal/rename example.org/you/tether
//
// It changes go.mod, and in every file the import paths of the module's packages: in Go code, in the tests of
// import rules, in the guides. Words that are no import path, as the names in a broker, stay as they are.
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage, in the module's root: go run ./internal/rename example.org/you/tether")
		os.Exit(2)
	}
	n, err := rename(".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rename:", err)
		os.Exit(1)
	}
	fmt.Printf("%d files changed; go vet ./... and go test ./... show that all is well\n", n)
}

// rename moves the module in root to path, and returns how many files it has changed. A file of Go code is
// formatted, because the new path may sort its imports differently.
func rename(root, path string) (changed int, err error) {
	old, err := command(root, "go", "list", "-m")
	if err != nil {
		return 0, err
	}
	if _, err := command(root, "go", "mod", "edit", "-module="+path); err != nil {
		return 0, err // path is not a path
	}
	used, err := imports(root, old)
	if err != nil {
		return 0, err
	}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		wrote, err := rewrite(name, used, path)
		if wrote {
			changed++
		}
		return err
	})
	return changed + 1, err
}

// command runs a command in dir and returns what it prints.
func command(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// imports matches where the module old is used: before one of its folders, a version, or a replacement. Its
// groups are what stands before the module's path, and what behind.
func imports(root, old string) (*regexp.Regexp, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	behind := []string{`@v\d`, `=\.\.?/`}
	for _, e := range entries {
		if e.IsDir() {
			behind = append(behind, "/"+regexp.QuoteMeta(e.Name())+`\b`)
		}
	}
	return regexp.Compile(`(?m)(^|[^\w./@-])` + regexp.QuoteMeta(old) + `(` + strings.Join(behind, "|") + `)`)
}

// rewrite puts path in the place of the module's path, and reports whether the file has changed.
func rewrite(name string, used *regexp.Regexp, path string) (bool, error) {
	before, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	after := used.ReplaceAll(before, []byte("${1}"+path+"${2}"))
	if bytes.Equal(after, before) {
		return false, nil
	}
	if filepath.Ext(name) == ".go" {
		if after, err = format.Source(after); err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
	}
	info, err := os.Stat(name)
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(name, after, info.Mode())
}
