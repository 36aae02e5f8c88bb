package transport

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// readAnswer reads one answer from a raw connection, with its body unless it is 101.
func readAnswer(t testing.TB, conn net.Conn) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, ""
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestCORSHeadersAreThoseOfTheNpmPackage(t *testing.T) {
	list := CORS{Origins: []string{"http://a.example", "http://b.example"}, Credentials: true}
	one := CORS{Origins: []string{"http://a.example"}, Exposed: []string{"X-A", "X-B"}}
	function := CORS{Allow: func(_ *http.Request, origin string) bool { return strings.HasSuffix(origin, ".example") }, MaxAge: time.Hour, Headers: []string{"X-C"}}
	for _, tt := range []struct {
		name           string
		cors           CORS
		method, origin string
		status         int
		want           map[string]string
	}{
		{"none, no origin", CORS{}, "GET", "", 200, map[string]string{"Access-Control-Allow-Origin": "", "Vary": ""}},
		{"any", CORS{Origins: []string{"*"}}, "GET", "http://x.test", 200, map[string]string{"Access-Control-Allow-Origin": "*", "Vary": ""}},
		{"one, allowed", one, "GET", "http://a.example", 200, map[string]string{
			"Access-Control-Allow-Origin": "http://a.example", "Vary": "Origin", "Access-Control-Expose-Headers": "X-A,X-B"}},
		{"one, foreign", one, "GET", "http://c.example", 403, map[string]string{"Access-Control-Allow-Origin": "http://a.example"}},
		{"one, no origin", one, "GET", "", 200, map[string]string{"Access-Control-Allow-Origin": "http://a.example", "Vary": "Origin"}},
		{"list, allowed", list, "GET", "http://b.example", 200, map[string]string{
			"Access-Control-Allow-Origin": "http://b.example", "Vary": "Origin", "Access-Control-Allow-Credentials": "true"}},
		{"list, foreign", list, "GET", "http://c.example", 403, map[string]string{"Access-Control-Allow-Origin": "", "Vary": "Origin"}},
		{"function, allowed", function, "GET", "http://c.example", 200, map[string]string{"Access-Control-Allow-Origin": "http://c.example", "Vary": "Origin"}},
		{"function, foreign", function, "GET", "http://c.test", 403, map[string]string{"Access-Control-Allow-Origin": ""}},
		{"an error", list, "DELETE", "http://a.example", 400, map[string]string{"Access-Control-Allow-Origin": "http://a.example"}},
		{"preflight", list, "OPTIONS", "http://a.example", 204, map[string]string{
			"Access-Control-Allow-Origin": "http://a.example", "Access-Control-Allow-Methods": "GET,HEAD,PUT,PATCH,POST,DELETE",
			"Access-Control-Allow-Headers": "content-type, x-y", "Access-Control-Allow-Credentials": "true",
			"Vary": "Origin, Access-Control-Request-Headers"}},
		{"preflight with fixed headers", function, "OPTIONS", "http://a.example", 204, map[string]string{
			"Access-Control-Allow-Headers": "X-C", "Access-Control-Max-Age": "3600", "Vary": "Origin"}},
		{"preflight, foreign", list, "OPTIONS", "http://c.example", 403, map[string]string{"Access-Control-Allow-Origin": ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, Options{CORS: tt.cors})
			headers := []string{"Access-Control-Request-Headers: content-type, x-y"}
			if tt.origin != "" {
				headers = append(headers, "Origin: "+tt.origin)
			}
			status, h, _ := s.do(tt.method, "EIO=4&transport=polling", "", headers...)
			if status != tt.status {
				t.Fatalf("status %d, want %d", status, tt.status)
			}
			for k, want := range tt.want {
				if got := strings.Join(h[http.CanonicalHeaderKey(k)], ", "); got != want {
					t.Errorf("%s: %q, want %q", k, got, want)
				}
			}
		})
	}
}

func TestCORSHeadersStandOnTheAnswerToAnUpgrade(t *testing.T) {
	s := serve(t, Options{CORS: CORS{Origins: []string{"*"}}, Cookie: Cookie{Name: "io"}})
	c := s.upgrade("EIO=4&transport=websocket", "", "Origin: http://x.test")
	if got := c.head.Header.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("Access-Control-Allow-Origin: %q", got)
	}
	if got := c.head.Header.Get("Set-Cookie"); got != "" {
		t.Errorf("Set-Cookie: %q", got)
	}
}
