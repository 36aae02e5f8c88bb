package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"tether/cmd/tether/internal/config"
)

type typesCommand struct {
	Package string `arg:"" help:"The package that declares the events: ./events, or its import path."`
}

func (typesCommand) Help() string {
	return `The package says which way its events go in one or two variables, of type []event.Declared:

  var ServerToClient = []event.Declared{Posted, Writes} // that the server emits
  var ClientToServer = []event.Declared{Post, Typing}   // that clients emit

  tether types ./events > web/events.ts

It is run in the module of the package, and needs the go command: what the types are only the compiler knows. The files of the module, go.mod among them, are not changed. A program of your own can do the same: go doc tether/types.`
}

func (c *typesCommand) run(p *program, _ *config.Loaded) int {
	return p.end(c.write(p))
}

// declared are the variables by which a package hands its events over, and the fields of types.Events.
var declared = []struct{ variable, field string }{{"ServerToClient", "Server"}, {"ClientToServer", "Client"}}

// declaring is what "go list" says of the package.
type declaring struct {
	Dir, ImportPath, Name string
	GoFiles               []string
	Module                *struct {
		Main       bool
		Dir, GoMod string
	}
}

// write has the package's own module run a program that exists nowhere but in an overlay.
func (c *typesCommand) write(p *program) error {
	pkg, err := c.find()
	if err != nil {
		return err
	}
	fields, err := pkg.fields()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "tether-types-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	text := fmt.Sprintf("package main\n\nimport (\n\tdeclared %q\n\n\t\"tether/types\"\n)\n\nfunc main() { types.Main(types.Events{%s}) }\n",
		pkg.ImportPath, fields)
	// Below the package, so that it may be an internal one.
	dir := filepath.Join(pkg.Dir, "tether_types_main")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(dir, "main.go"): filepath.Join(work, "main.go")}})
	if err != nil {
		return err
	}
	args := []string{"run", "-overlay=" + filepath.Join(work, "overlay.json")}
	if err := errors.Join(
		os.WriteFile(filepath.Join(work, "main.go"), []byte(text), 0o600),
		os.WriteFile(filepath.Join(work, "overlay.json"), overlay, 0o600)); err != nil {
		return err
	}
	if !inWorkspace(pkg.Dir) { // what the program needs besides is written into copies
		if err := copyModule(pkg.Module.GoMod, work); err != nil {
			return err
		}
		args = append(args, "-mod=mod", "-modfile="+filepath.Join(work, "go.mod"))
	}
	cmd := exec.Command("go", append(args, dir)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = pkg.Dir, p.stdout, p.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the types of %s could not be written: %w", pkg.ImportPath, err)
	}
	return nil
}

func (c *typesCommand) find() (*declaring, error) {
	var stderr strings.Builder
	cmd := exec.Command("go", "list", "-json=Dir,ImportPath,Name,GoFiles,Module", "--", c.Package)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("the go command is needed, and is not on the PATH")
	}
	if err != nil {
		return nil, &config.Mistake{Problem: fmt.Sprintf("%s is no package here: %s", c.Package, strings.TrimSpace(stderr.String()))}
	}
	var pkg declaring
	if err := json.Unmarshal(out, &pkg); err != nil {
		return nil, &config.Mistake{Problem: c.Package + " is more than one package; name the one that declares the events"}
	}
	switch {
	case pkg.Module == nil || !pkg.Module.Main:
		return nil, &config.Mistake{Problem: pkg.ImportPath + " is not in the module of this directory; run it there"}
	case pkg.Name == "main":
		return nil, &config.Mistake{Problem: pkg.ImportPath + " is a package main, which nobody can import; declare the events in a package of their own"}
	}
	return &pkg, nil
}

// fields are those of types.Events that the package has a variable for.
func (d *declaring) fields() (string, error) {
	has := make(map[string]bool)
	for _, name := range d.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(d.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return "", err
		}
		for _, decl := range file.Decls {
			if vars, ok := decl.(*ast.GenDecl); ok && vars.Tok == token.VAR {
				for _, spec := range vars.Specs {
					for _, ident := range spec.(*ast.ValueSpec).Names {
						has[ident.Name] = true
					}
				}
			}
		}
	}
	var fields []string
	for _, v := range declared {
		if has[v.variable] {
			fields = append(fields, v.field+": declared."+v.variable)
		}
	}
	if fields == nil {
		return "", &config.Mistake{Problem: d.ImportPath + " has neither a variable ServerToClient nor ClientToServer; " +
			"var ServerToClient = []event.Declared{…} is right, with the events that the server emits"}
	}
	return strings.Join(fields, ", "), nil
}

func inWorkspace(dir string) bool {
	cmd := exec.Command("go", "env", "GOWORK")
	cmd.Dir = dir
	out, err := cmd.Output()
	work := strings.TrimSpace(string(out))
	return err == nil && work != "" && work != "off"
}

// copyModule copies a go.mod and its go.sum, if there is one.
func copyModule(goMod, to string) error {
	for _, name := range []string{goMod, strings.TrimSuffix(goMod, ".mod") + ".sum"} {
		text, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) && name != goMod {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(name)), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
