// Crosscheck says whether packages compile on other systems, their tests included. It checks types and
// makes no code: to have "go vet" compile every dependency for another system takes a minute and more.
//
//	go run ./internal/crosscheck darwin/arm64 windows/amd64
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	for _, system := range os.Args[1:] {
		n, err := check(system, ".", "./...")
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", system, err)
			os.Exit(1)
		}
		fmt.Printf("%s: %d packages compile\n", system, n)
	}
}

// listed is what is needed of a package that "go list" lists.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	ImportMap  map[string]string
	Module     *struct {
		Main      bool
		GoVersion string
	}
	Error *struct{ Err string }
}

// check checks the packages that match pattern in dir, for a GOOS/GOARCH, and returns how many there are.
func check(system, dir, pattern string) (int, error) {
	goos, goarch, ok := strings.Cut(system, "/")
	if !ok {
		return 0, errors.New("a system is GOOS/GOARCH")
	}
	var stderr strings.Builder
	cmd := exec.Command("go", "list", "-deps", "-test", "-e", "-json=ImportPath,Dir,GoFiles,ImportMap,Module,Error", pattern)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go list: %w\n%s", err, stderr.String())
	}
	c := checker{
		fset:   token.NewFileSet(),
		sizes:  types.SizesFor("gc", goarch),
		loaded: map[string]*types.Package{"unsafe": types.Unsafe},
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; { // what a package depends on comes before it
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			return 0, err
		}
		c.add(p)
	}
	return c.own, errors.Join(c.wrong...)
}

type checker struct {
	fset   *token.FileSet
	sizes  types.Sizes
	loaded map[string]*types.Package
	own    int     // packages of the main module
	wrong  []error // in them
}

func (c *checker) add(p listed) {
	if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") { // the main package of a test is generated
		return
	}
	main := p.Module != nil && p.Module.Main
	report := func(err error) {
		if main {
			c.wrong = append(c.wrong, err)
		}
	}
	if p.Error != nil {
		report(errors.New(p.Error.Err))
	}
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(c.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			report(err)
			continue
		}
		files = append(files, f)
	}
	config := types.Config{
		Importer:         importer{c.loaded, p.ImportMap},
		Sizes:            c.sizes,
		IgnoreFuncBodies: !main,
		Error:            report,
	}
	if p.Module != nil && p.Module.GoVersion != "" {
		config.GoVersion = "go" + p.Module.GoVersion
	}
	path, _, _ := strings.Cut(p.ImportPath, " ") // "p [p.test]" is p with its tests
	c.loaded[p.ImportPath], _ = config.Check(path, c.fset, files, nil)
	if main {
		c.own++
	}
}

// importer finds packages that have been checked before.
type importer struct {
	loaded map[string]*types.Package
	names  map[string]string // where a package means another one by a path
}

func (i importer) Import(path string) (*types.Package, error) {
	if name, ok := i.names[path]; ok {
		path = name
	}
	if p := i.loaded[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("package %s is not there", path)
}
