package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a folder with files.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestImportPathsAreMovedAndOtherWordsStay(t *testing.T) {
	root := write(t, map[string]string{
		"go.mod":              "module shed\n\ngo 1.26.0\n",
		"hub/hub.go":          "package hub\n\nimport (\n\t\"a.example/x\"\n\t\"shed/broker\"\n)\n\n// [shed/broker.B] takes \"shed:nodes\" in /etc/shed/hub, and shed/else.\nconst c = \"shed/hub\"\n",
		"broker/b.go":         "package broker\n\nconst Prefix = \"shed\"\n",
		"README.md":           "-require=shed@v0.1.0 -replace=shed=../shed\nimport \"shed/hub\"\nshed emit user:42\n",
		"node_modules/x/y.md": "shed/hub",
	})
	n, err := rename(root, "example.org/you/shed")
	if err != nil || n != 3 {
		t.Errorf("rename = %d, %v, want 3 files", n, err)
	}
	for name, want := range map[string]string{
		"go.mod":              "module example.org/you/shed\n\ngo 1.26.0\n",
		"hub/hub.go":          "package hub\n\nimport (\n\t\"a.example/x\"\n\t\"example.org/you/shed/broker\"\n)\n\n// [example.org/you/shed/broker.B] takes \"shed:nodes\" in /etc/shed/hub, and shed/else.\nconst c = \"example.org/you/shed/hub\"\n",
		"broker/b.go":         "package broker\n\nconst Prefix = \"shed\"\n",
		"README.md":           "-require=example.org/you/shed@v0.1.0 -replace=example.org/you/shed=../shed\nimport \"example.org/you/shed/hub\"\nshed emit user:42\n",
		"node_modules/x/y.md": "shed/hub",
	} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %v\ngot  %s\nwant %s", name, err, got, want)
		}
	}
	again, err := rename(root, "shed")
	if text, _ := os.ReadFile(filepath.Join(root, "hub/hub.go")); err != nil || again != 3 || !strings.Contains(string(text), `"shed/broker"`) {
		t.Errorf("back: %d, %v\n%s", again, err, text)
	}
}

func TestAPathThatIsNoneChangesNothing(t *testing.T) {
	files := map[string]string{"go.mod": "module shed\n", "hub/hub.go": "package hub\n\nconst c = \"shed/hub\"\n"}
	root := write(t, files)
	if n, err := rename(root, "no path"); err == nil {
		t.Errorf("%d files were changed, and no error", n)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s is changed: %s, %v", name, got, err)
		}
	}
}
