package main

import (
	"fmt"
	"os"

	"tether/bench/internal/report"
)

const reportText = `
bench report [flags] FILE… makes one HTML page of the results that run -json or load -json wrote:
tables, latency percentiles, throughput over time, memory over connections. Several files are shown
side by side. The page loads nothing and runs no scripts.`

func (c cli) report(args []string) error {
	f := c.flags("report", reportText)
	out := f.String("o", "bench.html", "the page; - for the standard output")
	table := f.Bool("table", false, "print the tables instead of making a page")
	names, help, err := c.parse(f, args)
	if help || err != nil {
		return err
	}
	if len(names) == 0 {
		return c.wrong(f, "which files?")
	}
	var files []*report.File
	for _, path := range names {
		file, err := report.Load(path)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	switch {
	case *table:
		for _, file := range files {
			fmt.Fprintf(c.out, "%s\n", file.Name)
			if err := file.Print(c.out); err != nil {
				return err
			}
		}
		return nil
	case *out == "-":
		return report.WritePage(c.out, files)
	}
	w, err := os.Create(*out)
	if err != nil {
		return err
	}
	err = report.WritePage(w, files)
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil {
		fmt.Fprintf(c.err, "wrote %s\n", *out)
	}
	return err
}

const compareText = `
bench compare [flags] OLD NEW compares two results of run -json. The exit status is 1 when something
got worse: the median by more than -spread percent, with no repetition of the new one as good as one
of the old; or any message more that was lost, doubled, inverted or foreign, any emit or connection
more that failed. Where a scenario has a limit the ratios to it are compared, so the two may come from
different hours.

Servers are compared under their names (load -name, run -peer). Where each file has one server in a
scenario, those two are compared, whatever they are called.`

func (c cli) compare(args []string) error {
	f := c.flags("compare", compareText)
	spread := f.Float64("spread", 10, "percent that a median may differ by")
	all := f.Bool("all", false, "show what is the same, too")
	names, help, err := c.parse(f, args)
	if help || err != nil {
		return err
	}
	if len(names) != 2 {
		return c.wrong(f, "two files, OLD and NEW")
	}
	old, err := report.Load(names[0])
	if err != nil {
		return err
	}
	new, err := report.Load(names[1])
	if err != nil {
		return err
	}
	changes := report.Compare(old, new, *spread)
	if len(changes) == 0 {
		return fmt.Errorf("%s and %s have no scenario in common, or no server of the same name in it", old.Name, new.Name)
	}
	worse, err := report.PrintChanges(c.out, changes, *all)
	if err == nil && worse > 0 {
		return errWorse
	}
	return err
}
