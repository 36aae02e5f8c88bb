package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"tether/cmd/tether/internal/config"
)

const purpose = `Tether is an event hub: Socket.IO clients connect to it, and any process emits to their users, wherever they are. Each command explains itself: tether serve -h lists every setting of a node.

Exit codes: 0 it is done; 1 it failed; 2 a mistake in the command line or the configuration; 3 a second signal cut the drain of tether serve short; 4 nobody is there; 5 it is not known whether more are there: the broker cannot tell, or nodes are missing.`

// printHelp writes the help for the command that is named in args, or for the program.
func printHelp(w io.Writer, args []string) error {
	parser, err := config.NewParser(&commandLine{})
	if err != nil {
		return err
	}
	parser.Model.Help = purpose
	ctx, err := kong.Trace(parser, args)
	if err != nil {
		return err
	}
	selected := ctx.Selected()
	for _, f := range config.Settings(parser.Model) {
		f.Hidden = selected == nil || !config.Uses(selected, f.Name)
	}
	ctx.Stdout = w
	return kong.DefaultHelpPrinter(kong.HelpOptions{Compact: true, WrapUpperBound: 100, ValueFormatter: explain}, ctx)
}

// explain is the help of a flag or an argument, with what its tags add.
func explain(v *kong.Value) string {
	switch {
	case v.Enum != "":
		return v.Help + " One of " + strings.Join(v.EnumSlice(), ", ") + "."
	case v.IsBool() && v.Default == "true":
		return v.Help + " On by default; --" + v.Name + "=false turns it off."
	}
	return v.Help
}

// release is set by the linker where the source has no repository: -ldflags "-X main.release=v0.1.0".
var release string

// version says what this program was built from.
func version() string {
	built, _ := debug.ReadBuildInfo()
	commit := ""
	if i := slices.IndexFunc(built.Settings, func(s debug.BuildSetting) bool { return s.Key == "vcs.revision" }); i >= 0 {
		commit = ", commit " + built.Settings[i].Value[:12]
	}
	return fmt.Sprintf("tether %s (%s, %s/%s%s)", cmp.Or(release, built.Main.Version), runtime.Version(), runtime.GOOS, runtime.GOARCH, commit)
}
