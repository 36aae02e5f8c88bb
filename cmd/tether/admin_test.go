package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/client"
	"tether/internal/interop/browser"
)

// adminURL is the address of the page of a server.
func (p *process) adminURL() string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines { // it is said before the server is ready
		if line["msg"] == "the page for operators" {
			return fmt.Sprintf("http://%s", line["addr"])
		}
	}
	p.t.Fatal("the server has no page for operators")
	return ""
}

// adminDo sends a request to the page, with headers in pairs.
func adminDo(t *testing.T, method, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(text)
}

const adminKey = "admin-key-for-tests-only"

func TestThePageForOperatorsLetsInWhoMayComeIn(t *testing.T) {
	open := start(t, enough, "--admin.addr=127.0.0.1:0").ready()
	locked := start(t, append([]string{"TETHER_ADMIN_KEYS=" + adminKey}, enough...), "--admin.addr=127.0.0.1:0").ready()
	basic := func(key string) string {
		r, _ := http.NewRequest("GET", "/", nil)
		r.SetBasicAuth("anybody", key)
		return r.Header.Get("Authorization")
	}
	const js = "application/json"
	kick := `{"user":"42"}`
	for _, c := range []struct {
		name, method, url, body string
		header                  []string
		want                    int
	}{
		{"the page", "GET", open.adminURL() + "/", "", nil, 200},
		{"metrics", "GET", open.adminURL() + "/metrics", "", nil, 200},
		{"a name that points here", "GET", open.adminURL() + "/api/cluster", "", []string{"Host", "evil.example"}, 403},
		{"localhost", "GET", open.adminURL() + "/api/cluster", "", []string{"Host", "localhost:3001"}, 200},
		{"no key", "GET", locked.adminURL() + "/", "", nil, 401},
		{"a bad key", "GET", locked.adminURL() + "/", "", []string{"Authorization", basic(adminKey + "x")}, 401},
		{"no key in it", "GET", locked.adminURL() + "/", "", []string{"Authorization", "Bearer "}, 401},
		{"the key of the API", "GET", locked.adminURL() + "/", "", []string{"Authorization", "Bearer " + testEmitKey}, 401},
		{"a password", "GET", locked.adminURL() + "/", "", []string{"Authorization", basic(adminKey)}, 200},
		{"a bearer key", "GET", locked.adminURL() + "/api/cluster", "", []string{"Authorization", "Bearer " + adminKey}, 200},
		{"another name with a key", "GET", locked.adminURL() + "/", "", []string{"Host", "tether.example", "Authorization", "Bearer " + adminKey}, 200},
		{"a question", "POST", open.adminURL() + "/api/find", kick, []string{"Content-Type", js}, 200},
		{"a form of another site", "POST", open.adminURL() + "/api/kick", kick, []string{"Content-Type", "text/plain"}, 415},
		{"a script of another site", "POST", open.adminURL() + "/api/kick", kick, []string{"Content-Type", js, "Sec-Fetch-Site", "cross-site"}, 403},
		{"an origin that is not ours", "POST", open.adminURL() + "/api/drain", `{"node":"x"}`, []string{"Content-Type", js, "Origin", "https://evil.example"}, 403},
		{"no such node", "POST", open.adminURL() + "/api/drain", `{"node":"x"}`, []string{"Content-Type", js}, 400},
		{"nobody to kick", "POST", open.adminURL() + "/api/kick", `{}`, []string{"Content-Type", js}, 400},
		{"what there is not", "GET", open.adminURL() + "/api", "", nil, 404},
	} {
		got, header, text := adminDo(t, c.method, c.url, c.body, c.header...)
		if got != c.want {
			t.Errorf("%s: got %d %s, want %d", c.name, got, text, c.want)
		}
		if csp := header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: the policy is %q", c.name, csp)
		}
	}
	out, err := tetherCommand([]string{"check-config", "--admin.addr=:3001"}, enough).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "admin.keys") {
		t.Errorf("an address for all without a key: got %v %s", err, out)
	}
	for _, p := range []*process{open, locked} {
		if got := p.get("/api/cluster"); got.status != http.StatusNotFound {
			t.Errorf("the page is on the address of the clients: %v", got)
		}
	}
}

// TestAnOperatorSeesTheClusterInABrowser with three nodes, one of which is killed.
func TestAnOperatorSeesTheClusterInABrowser(t *testing.T) {
	t.Parallel()
	path, err := browser.Find()
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	redis := backend.Redis(t)
	environ := append([]string{"TETHER_BROKER=" + redis.URL, "TETHER_PREFIX=" + t.Name(), "TETHER_ADMIN_KEYS=" + adminKey}, enough...)
	var node [3]*process
	for i, name := range []string{"alpha", "beta", "gamma"} {
		node[i] = start(t, environ, "--node="+name, "--admin.addr=127.0.0.1:0").ready()
	}
	phone := dialUser(t, client.Options{URL: node[0].url()}, "42")
	laptop := dialUser(t, client.Options{URL: node[1].url()}, "42")
	dialUser(t, client.Options{URL: node[2].url()}, "7")

	b := browser.Start(t, path)
	p := b.Open(t, strings.Replace(node[0].adminURL(), "//", "//operator:"+adminKey+"@", 1)+"/")
	row := func(name string) string { return fmt.Sprintf(`document.querySelector('tr[data-node="%s"]')`, name) }
	p.Wait(t, `document.querySelectorAll("#nodes .state .good").length === 3`)
	if got, want := p.Text(t, "#summary"), "3 nodes, 3 connections"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for range 200 { // rates, while somebody emits
		node[2].post("/emit", testEmitKey, `{"user":"42","event":"/users/ping"}`)
		next(t, phone)
		if p.Eval(t, `[...`+row("gamma")+`.cells].some((c) => c.dataset.label === "Emitted/s" && parseFloat(c.textContent) > 0)`) == true {
			break
		}
	}
	p.Wait(t, `[...`+row("gamma")+`.cells].some((c) => c.dataset.label === "Emitted/s" && c.textContent !== "–")`)

	p.Eval(t, `document.dispatchEvent(new KeyboardEvent("keydown", { key: "/" }))`)
	if p.Eval(t, `document.activeElement.id`) != "name" {
		t.Error("the key / does not lead to the search")
	}
	p.Fill(t, "#name", "42")
	p.Click(t, "#find button")
	p.Wait(t, `document.querySelector("#found").textContent.startsWith("2 sockets on 2 nodes")`)
	if got := p.Text(t, "#sockets"); !strings.Contains(got, phone.ID) || !strings.Contains(got, laptop.ID) || !strings.Contains(got, "user:42") || !strings.Contains(got, "websocket") {
		t.Errorf("the devices of 42: got %q", got)
	}
	tablet := dialUser(t, client.Options{URL: node[2].url()}, "42")
	p.Wait(t, `document.querySelector("#found").textContent.startsWith("3 sockets on 3 nodes")`) // without a reload
	tablet.Close()
	p.Wait(t, `document.querySelector("#found").textContent.startsWith("2 sockets on 2 nodes")`)
	p.Click(t, "#follow")
	p.Wait(t, `document.querySelector("#following").textContent.startsWith("Nodes follow")`)
	node[2].post("/emit", testEmitKey, `{"user":"42","event":"/orders/new","args":["secret"]}`)
	p.Wait(t, `document.querySelectorAll("#events tbody tr").length === 2`)
	if got := p.Text(t, "#events"); strings.Count(got, "/orders/new") != 2 || strings.Count(got, "written") != 2 || !strings.Contains(got, "by gamma") || strings.Contains(got, "secret") {
		t.Errorf("the last events: got %q", got)
	}
	if err := laptop.Emit(t.Context(), "/typing", "secret"); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, `document.querySelectorAll("#events tbody tr").length === 3`)
	if got := p.Text(t, "#events"); !strings.Contains(got, "/typing") || !strings.Contains(got, laptop.ID) || strings.Contains(got, "secret") {
		t.Errorf("what a client has sent: got %q", got)
	}
	shot := screenshots(t)
	p.Emulate(t, 1200, 1060, false)
	p.Screenshot(t, shot("page.png")) // docs/operating.png is this one
	p.Emulate(t, 1200, 1060, true)
	p.Screenshot(t, shot("dark.png"))
	p.Emulate(t, 390, 844, false)
	p.Screenshot(t, shot("events-phone.png"))
	p.Emulate(t, 1200, 900, false)

	p.Click(t, fmt.Sprintf(`tr[data-socket="%s"] button`, phone.ID))
	p.Wait(t, `document.querySelector("#sure").open`)
	if p.Eval(t, `document.activeElement.textContent`) != "Cancel" {
		t.Error("the dialog does not begin at Cancel")
	}
	p.Click(t, "#yes")
	if why := phone.Reason(); why != "disconnected by the server" {
		t.Errorf("the phone ended because: %s", why)
	}
	p.Wait(t, `document.querySelector("#kicked").textContent === "1 disconnected: `+phone.ID+`."`)
	p.Wait(t, `document.querySelector("#found").textContent.startsWith("1 socket on 1 node")`)

	if err := node[2].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, row("gamma")+`.className === "gone" && `+row("alpha")+`.querySelector(".good") !== null`)
	if got := p.Text(t, "#summary"); !strings.Contains(got, "2 nodes, 1 connection, 1 to look at") {
		t.Errorf("after the death of a node: got %q", got)
	}
	p.Screenshot(t, shot("killed.png"))
	p.Emulate(t, 390, 844, true)
	p.Wait(t, `getComputedStyle(document.body).backgroundColor === "rgb(20, 21, 23)"`)
	if p.Eval(t, `document.documentElement.scrollWidth > window.innerWidth`) == true {
		t.Error("on a phone the page is wider than the screen")
	}
	p.Screenshot(t, shot("phone.png"))

	p.Click(t, `tr[data-node="beta"] button`)
	p.Wait(t, `document.querySelector("#sure").open`)
	p.Click(t, "#yes")
	if code := node[1].exit(); code != 0 {
		t.Errorf("the drained node exits with %d", code)
	}
	laptop.Reason() // it has been sent away
	p.Wait(t, row("beta")+`.className === "gone"`)

	start(t, environ, "--node=gamma").ready()
	p.Wait(t, `document.querySelectorAll('tr[data-node="gamma"]').length === 1 && `+row("gamma")+`.querySelector(".good") !== null`)
	if problems := append(b.Problems(), b.Refused()...); len(problems) > 0 {
		t.Errorf("the browser says %q", problems)
	}
}

// screenshots names files to look at: in TETHER_SCREENSHOTS if that is set.
func screenshots(t *testing.T) func(name string) string {
	dir := os.Getenv("TETHER_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	return func(name string) string { return filepath.Join(dir, name) }
}

// stuck is a client that connects as a user, with more in its auth, and reads no more. It returns what it has read.
func stuck(t *testing.T, p *process, user, more string) string {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", p.addr)
	packet := fmt.Sprintf(`40{"token":%q%s}`, tokenFor(t, user, time.Hour), more)
	frame := append([]byte{0x81, 0x80 | 126}, binary.BigEndian.AppendUint16(nil, uint16(len(packet)))...)
	if len(packet) < 126 {
		frame = []byte{0x81, 0x80 | byte(len(packet))}
	}
	if _, err := conn.Write(append(append(frame, 0, 0, 0, 0), packet...)); err != nil { // the mask changes nothing
		t.Fatal(err)
	}
	seen := []byte{}
	for one := make([]byte, 1); !strings.Contains(string(seen), "connection-success"); seen = append(seen, one[0]) {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("%v after %q", err, seen)
		}
	}
	return string(seen)
}

func TestAClientThatAsksForItCanComeBackToItsSession(t *testing.T) {
	t.Parallel()
	on, off := start(t, enough, "--recovery.on").ready(), start(t, enough).ready()
	for _, c := range []struct {
		node  *process
		asks  string
		offer bool
	}{{on, `,"recovery":true`, true}, {on, "", false}, {off, `,"recovery":true`, false}} {
		if seen := stuck(t, c.node, "42", c.asks); strings.Contains(seen, `"pid":"`) != c.offer {
			t.Errorf("asking %q: got %q, want an offer: %v", c.asks, seen, c.offer)
		}
	}
}

func TestALogIsKeptOnNATS(t *testing.T) {
	t.Parallel()
	broker := "TETHER_BROKER=" + backend.JetStream(t, t.TempDir()).URL + "?log=5m"
	p := start(t, append([]string{broker}, enough...), "--recovery.on", "--recovery.log").ready()
	if seen := stuck(t, p, "42", `,"recovery":true`); !strings.Contains(seen, `"pid":"`) {
		t.Errorf("a client that asks for its session got %q", seen)
	}
}

// TestAStuckClientIsFound by what waits for it, and from there by its connection.
func TestAStuckClientIsFound(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--admin.addr=127.0.0.1:0", "--client.write-timeout=5m", "--client.kernel-buffer=4096").ready()
	c := dialUser(t, client.Options{URL: p.url()}, "42")
	stuck(t, p, "43", "")
	text := strings.Repeat("x", 100_000)
	var view struct {
		Nodes []struct {
			Status struct {
				Behind  int
				Slowest []struct {
					Connection string
					Bytes      int
				}
			}
		}
	}
	for range 8 { // more than the kernel takes, and less than a queue
		p.post("/emit", testEmitKey, `{"user":"43","event":"x","args":["`+text+`"]}`)
	}
	for began := time.Now(); time.Since(began) < patience; time.Sleep(50 * time.Millisecond) {
		_, _, body := adminDo(t, "GET", p.adminURL()+"/api/cluster", "")
		if err := json.Unmarshal([]byte(body), &view); err != nil {
			t.Fatal(err)
		}
		if len(view.Nodes) == 1 && len(view.Nodes[0].Status.Slowest) == 1 {
			break
		}
	}
	if len(view.Nodes) != 1 || len(view.Nodes[0].Status.Slowest) != 1 {
		t.Fatalf("got %+v, want one client that is behind", view)
	}
	slow := view.Nodes[0].Status.Slowest[0]
	_, _, body := adminDo(t, "POST", p.adminURL()+"/api/find", `{"connection":"`+slow.Connection+`"}`, "Content-Type", "application/json")
	if !strings.Contains(body, `"user:43"`) || strings.Contains(body, c.ID) || strings.Contains(body, `"queued":0`) {
		t.Errorf("connection %s, for which %d bytes wait: got %s", slow.Connection, slow.Bytes, body)
	}
}

// TestAStuckClientIsFoundByKeyboard: what has the focus keeps it while the page goes on, and what was found gets it.
func TestAStuckClientIsFoundByKeyboard(t *testing.T) {
	t.Parallel()
	path, err := browser.Find()
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	node := start(t, enough, "--admin.addr=127.0.0.1:0", "--client.write-timeout=5m", "--client.kernel-buffer=4096").ready()
	stuck(t, node, "43", "")
	p := browser.Start(t, path).Open(t, node.adminURL()+"/")
	text := strings.Repeat("x", 100_000)
	for range 8 { // more than the kernel takes, and less than a queue
		node.post("/emit", testEmitKey, `{"user":"43","event":"x","args":["`+text+`"]}`)
	}
	p.Wait(t, `!document.querySelector("#slow").hidden`)
	keeps := func(table string) {
		t.Helper()
		p.Eval(t, fmt.Sprintf(`document.querySelector("#%s tbody button").focus(); row = document.querySelector("#%[1]s tbody tr"); 0`, table))
		p.Wait(t, fmt.Sprintf(`row !== document.querySelector("#%s tbody tr")`, table)) // it is shown anew
		if p.Eval(t, fmt.Sprintf(`document.activeElement === document.querySelector("#%s tbody button")`, table)) != true {
			t.Errorf("the button in #%s has lost the focus", table)
		}
	}
	keeps("nodes")
	keeps("slow")
	p.Eval(t, `document.activeElement.click()`) // as Enter does
	p.Wait(t, `document.querySelector("#sockets").textContent.includes("user:43")`)
	if p.Eval(t, `document.activeElement.id`) != "found" {
		t.Error("what was found has not got the focus")
	}
	keeps("sockets")
}
