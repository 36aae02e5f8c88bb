package browser

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func start(t *testing.T) *Browser {
	t.Helper()
	path, err := Find()
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return Start(t, path)
}

func TestPageLoadsLocalAndRoutedAddressesAndNothingElse(t *testing.T) {
	b := start(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write([]byte(`<!doctype html><link rel="icon" href="data:,">
			<script src="https://cdn.example.invalid/a.js" crossorigin="anonymous"
				integrity="sha256-mk3Dfn5RYe7FmhnyvQItSX4EpWp1v68eOgBZJatd8As="></script>
			<script src="https://elsewhere.example.invalid/b.js"></script>
			<input id="in"><button onclick="document.querySelector('output').value = document.querySelector('#in').value + answer">go</button><output></output>`))
	}))
	defer s.Close()
	b.Route("https://cdn.example.invalid/a.js", "text/javascript", []byte("var answer = 42;\n"))

	p := b.Open(t, s.URL)
	p.Fill(t, "#in", `it's "`)
	p.Click(t, "button")
	p.Wait(t, `document.querySelector("output").value !== ""`)
	if got, want := p.Text(t, "output"), `it's "42`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := b.Refused(), []string{"https://elsewhere.example.invalid/b.js"}; !slices.Equal(got, want) {
		t.Errorf("refused %q, want %q", got, want)
	}
	if got := b.Problems(); len(got) != 1 {
		t.Errorf("got the problems %q, want the refused script", got)
	}
	file := filepath.Join(t.TempDir(), "page.png")
	p.Screenshot(t, file)
	if data, err := os.ReadFile(file); err != nil || len(data) < 1000 || string(data[1:4]) != "PNG" {
		t.Errorf("the screenshot has %d bytes, %v", len(data), err)
	}
}
