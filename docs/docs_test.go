// Package docs has the guides, and tests that keep their code true.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// guides whose code is taken from sources that compile, each block a run of lines of one file.
var guides = []string{"../README.md", "registering.md", "emitting.md", "testing.md", "cluster.md", "revoking.md", "webhooks.md", "presence.md"}

// lines splits text, without indentation and empty lines.
func lines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// sources are the lines of the files below root with one of the endings.
func sources(t *testing.T, root string, endings ...string) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains(endings, filepath.Ext(path)) {
			return err
		}
		text, err := os.ReadFile(path)
		files[path] = lines(string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func contains(file, block []string) bool {
	for i := range file {
		if i+len(block) <= len(file) && slices.Equal(file[i:i+len(block)], block) {
			return true
		}
	}
	return false
}

var fenced = regexp.MustCompile("(?ms)^```(go|js|ts|html)\n(.*?)^```$")

func TestTheCodeInTheGuidesIsThatOfTheExamples(t *testing.T) {
	code := sources(t, "../examples", ".go", ".html", ".js", ".ts")
	for path, file := range sources(t, ".", ".go", ".js") {
		code[path] = file
	}
	for _, guide := range guides {
		text, err := os.ReadFile(guide)
		if err != nil {
			t.Fatal(err)
		}
		blocks := fenced.FindAllStringSubmatch(string(text), -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no code", guide)
		}
		for _, b := range blocks {
			found := false
			for _, file := range code {
				found = found || contains(file, lines(b[2]))
			}
			if !found {
				t.Errorf("%s: this is in no example:\n%s", guide, b[2])
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)#:"]*)(?:#([^)]*))?\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	unfit   = regexp.MustCompile(`[^\pL\pN\- ]`)
)

// anchors are the names that the headings of a page have in links.
func anchors(page string) []string {
	var names []string
	for _, h := range heading.FindAllStringSubmatch(page, -1) {
		names = append(names, strings.ReplaceAll(unfit.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
	}
	return names
}

func TestLinksLeadToFilesAndHeadings(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "../README.md", "../DESIGN.md", "../CHANGELOG.md", "../CONTRIBUTING.md", "../SECURITY.md", "../bench/README.md", "../cmd/tether/README.md")
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range link.FindAllStringSubmatch(string(text), -1) {
			target := page
			if l[1] != "" {
				target = filepath.Join(filepath.Dir(page), l[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link to %s: %v", page, l[1], err)
				continue
			}
			if l[2] == "" {
				continue
			}
			if text, err := os.ReadFile(target); err != nil || !slices.Contains(anchors(string(text)), l[2]) {
				t.Errorf("%s: link to %s: no heading is called #%s (%v)", page, l[1], l[2], err)
			}
		}
	}
}
