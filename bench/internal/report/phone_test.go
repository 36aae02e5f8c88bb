package report

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"tether/internal/interop/browser"
)

// A frame is as wide as a phone; what is wider than the frame would have to be scrolled sideways.
func TestThePageFitsOnAPhone(t *testing.T) {
	chromium, err := browser.Find()
	if err != nil && os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	one := sample("a-report-with-a-long-name.json", 11, 12)
	one.Command = []string{"load", "-url", "http://127.0.0.1:40000", "-conns", "20000", "-auth", `{"token":"{user}"}`}
	for _, m := range Metrics {
		one.Scenarios[0].Columns = append(one.Scenarios[0].Columns, m.Name)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, _ *http.Request) { WritePage(w, []*File{one, sample("two.json", 13)}) })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><iframe src="/page" width="360" height="800" style="border: 0"></iframe>`)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	p := browser.Start(t, chromium).Open(t, server.URL)
	const document = `document.querySelector("iframe").contentDocument`
	p.Wait(t, document+`.querySelectorAll("table").length > 3`)
	wide := p.Eval(t, `[...`+document+`.querySelectorAll("*")].filter((e) => e.scrollWidth > Math.max(e.clientWidth, 360)).map((e) => e.tagName + " " + e.scrollWidth).join(", ")`)
	if wide != "" {
		t.Errorf("wider than the phone: %v", wide)
	}
}
