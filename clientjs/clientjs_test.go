package clientjs

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// published is what socket.io's own documentation gives as the integrity of the file.
const published = "sha384-kzavj5fiMwLKzzD1f8S7TeoVIEi7uKHvbTA3ueZkrzYq75pNQUiUi6Dy98Q3fxb0"

func TestTheFileIsWhatSocketIOPublishes(t *testing.T) {
	script, err := Files.ReadFile("socket.io.min.js")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum384(script)
	if got := "sha384-" + base64.StdEncoding.EncodeToString(sum[:]); got != published {
		t.Errorf("its hash is %s, want %s", got, published)
	}
	if !bytes.Contains(script, []byte("Socket.IO v"+Version+"\n")) {
		t.Errorf("it is not version %s", Version)
	}
}

// npm ci has checked the package against the hash in package-lock.json, so its files are the measure.
func TestTheFilesAreThoseOfTheNPMPackage(t *testing.T) {
	const interop = "../internal/interop"
	var lock struct {
		Packages map[string]struct{ Version, Integrity string }
	}
	text, err := os.ReadFile(filepath.Join(interop, "package-lock.json"))
	if err == nil {
		err = json.Unmarshal(text, &lock)
	}
	if p := lock.Packages["node_modules/socket.io-client"]; err != nil || p.Version != Version || p.Integrity == "" {
		t.Errorf("package-lock.json has version %q, integrity %q, want %s; %v", p.Version, p.Integrity, Version, err)
	}
	installed := filepath.Join(interop, "node_modules", "socket.io-client")
	if _, err := os.Stat(installed); err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip("socket.io-client is not installed: run npm ci in internal/interop")
	}
	for ours, theirs := range map[string]string{
		"socket.io.min.js":         "dist/socket.io.min.js",
		"socket.io.min.js.map":     "dist/socket.io.min.js.map",
		"LICENSE.socket.io-client": "LICENSE",
	} {
		got, err := os.ReadFile(ours)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(installed, theirs))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not %s of the package, %v", ours, theirs, err)
		}
	}
}

func TestTheHandlerServesTheFilesAndNothingElse(t *testing.T) {
	h := Handler()
	ask := func(path, tag string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	w := ask("/assets/socket.io.min.js", "")
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/javascript") || !strings.HasPrefix(w.Body.String(), "/*!") {
		t.Errorf("the script: %d %s", w.Code, w.Header())
	}
	if again := ask("/assets/socket.io.min.js", w.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
		t.Errorf("asked again: %d, %d bytes", again.Code, again.Body.Len())
	}
	if m := ask("/socket.io.min.js.map", ""); m.Code != http.StatusOK || !json.Valid(m.Body.Bytes()) {
		t.Errorf("the source map: %d", m.Code)
	}
	for _, path := range []string{"/", "/other.js", "/LICENSE.socket.io-client", "/clientjs.go"} {
		if w := ask(path, ""); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
