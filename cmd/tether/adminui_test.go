package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/client"
	"tether/internal/interop/browser"
	"tether/internal/long"
)

const uiPassword = "ui-password-for-tests-only"

// adminUI is the page of npm's @socket.io/admin-ui, on a server of its own, in a browser. It loads icons and a font from
// elsewhere, which it does not get.
func adminUI(t *testing.T) (*browser.Browser, string) {
	t.Helper()
	modules := os.Getenv("TETHER_NODE_MODULES")
	if modules == "" {
		modules = "../../internal/interop/node_modules"
	}
	files := filepath.Join(modules, "@socket.io/admin-ui/ui/dist")
	_, err := os.Stat(filepath.Join(files, "index.html"))
	path, missing := browser.Find()
	if err == nil {
		err = missing
	}
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatal(err)
		}
		t.Skipf("no Chromium, or no page of npm's @socket.io/admin-ui: %v", err)
	}
	host := httptest.NewServer(http.FileServer(http.Dir(files)))
	t.Cleanup(host.Close)
	b := browser.Start(t, path)
	for _, from := range []string{"https://fonts.googleapis.com/css?family=Roboto:100,300,400,500,700,900", "https://cdn.jsdelivr.net/npm/@mdi/font@latest/css/materialdesignicons.min.css"} {
		b.Route(from, "text/css", nil)
	}
	return b, host.URL
}

// uiNodes are three nodes that let the page at an address connect.
func uiNodes(t *testing.T, origin string, args ...string) (node [3]*process) {
	t.Helper()
	environ := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name(), "TETHER_ADMIN_UI_PASSWORD=" + uiPassword}, enough...)
	for i, name := range []string{"alpha", "beta", "gamma"} {
		node[i] = start(t, environ, append([]string{"--node=" + name, "--cors.origins=" + origin, "--cors.credentials"}, args...)...).ready()
	}
	return node
}

// field is the text field of the page with a label.
func field(label string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(".v-dialog .v-text-field")].find((f) => f.textContent.includes(%q)).querySelector("input")`, label)
}

// login fills in the page's form, and sends it.
func login(t *testing.T, p *browser.Page, server, password string) {
	t.Helper()
	p.Wait(t, `document.querySelector(".v-dialog--active form") !== null`)
	for label, text := range map[string]string{"Server URL": server, "Username": "admin", "Password": password} {
		p.Eval(t, fmt.Sprintf(`(() => { const i = %s; i.value = %q; i.dispatchEvent(new Event("input")); })()`, field(label), text))
	}
	p.Click(t, ".v-dialog--active button[type=submit]")
}

// servers is the text of the page's table of servers.
const servers = `document.querySelector(".v-data-table tbody").textContent`

// healthy is true when the dashboard counts so many servers as healthy.
func healthy(n int) string {
	return fmt.Sprintf(`/Status\s*#\s*Healthy\s*%d\s/i.test(document.querySelector("main").innerText)`, n)
}

func open(t *testing.T, p *browser.Page, where string) {
	t.Helper()
	p.Eval(t, fmt.Sprintf(`location.hash = "#/%s/"`, where))
}

// TestTheOfficialAdminUIShowsTheCluster in production mode, with three nodes, one of which is killed.
func TestTheOfficialAdminUIShowsTheCluster(t *testing.T) {
	t.Parallel()
	b, host := adminUI(t)
	node := uiNodes(t, host, "--admin-ui.mode=production", "--emit.events=/users/ping")
	dialUser(t, client.Options{URL: node[1].url()}, "42")
	p := b.Open(t, host)
	login(t, p, node[0].url(), uiPassword+"x")
	p.Wait(t, `document.querySelector(".v-dialog .red--text") !== null`)
	if got, want := p.Text(t, ".v-dialog .red--text"), "Invalid credentials"; !strings.EqualFold(strings.TrimSpace(got), want) {
		t.Errorf("with a wrong password: got %q, want %q", got, want)
	}
	login(t, p, node[0].url(), uiPassword)
	p.Wait(t, `document.querySelector(".v-dialog--active") === null`)
	p.Wait(t, healthy(3))
	shot := screenshots(t)
	p.Screenshot(t, shot("admin-ui.png"))
	open(t, p, "servers")
	p.Wait(t, servers+`.includes("alpha#") && `+servers+`.includes("beta#") && `+servers+`.includes("gamma#")`)
	p.Screenshot(t, shot("admin-ui-servers.png"))

	p = b.Open(t, host) // it has a session
	p.Wait(t, healthy(3))
	if refused := b.Refused(); len(refused) > 0 {
		t.Errorf("the page asked for %q", refused)
	}
	long.Only(t) // the page waits for ten seconds
	if err := node[2].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	open(t, p, "servers")
	p.Wait(t, `[...document.querySelectorAll(".v-data-table tbody tr")].some((r) => r.textContent.includes("gamma#") && /unhealthy/i.test(r.textContent))`)
	p.Emulate(t, 390, 844, false)
	p.Screenshot(t, shot("admin-ui-phone.png"))
	if p.Eval(t, servers+`.includes("beta#")`) != true {
		t.Error("the table has lost a server that is there")
	}
}

// TestTheOfficialAdminUIListsSockets in development mode, moves them between rooms and disconnects them, on any node.
func TestTheOfficialAdminUIListsSockets(t *testing.T) {
	t.Parallel()
	long.Only(t)
	b, host := adminUI(t)
	node := uiNodes(t, host, "--admin-ui.mode=development", "--admin-ui.max-sockets=3")
	phone, laptop := dialUser(t, client.Options{URL: node[1].url()}, "42"), dialUser(t, client.Options{URL: node[2].url()}, "7")
	p := b.Open(t, host)
	login(t, p, node[0].url(), uiPassword)
	p.Wait(t, `document.querySelector(".v-dialog--active") === null`)
	shot := screenshots(t)
	open(t, p, "sockets")
	p.Wait(t, listed(phone.ID)+" && "+listed(laptop.ID))
	p.Screenshot(t, shot("admin-ui-sockets.png"))

	p.Eval(t, fmt.Sprintf(`location.hash = "#/n/%%2F/sockets/%s"`, phone.ID))
	rooms := `[...document.querySelectorAll(".v-card")].find((c) => c.querySelector(".v-card__title")?.textContent === "Rooms")`
	p.Wait(t, rooms+`?.textContent.includes("user:42")`)
	p.Eval(t, fmt.Sprintf(`(() => { const i = %s.querySelector("form input"); i.focus(); i.value = "tea"; i.dispatchEvent(new Event("input")); })()`, rooms))
	p.Wait(t, rooms+`.querySelector("form input").value === "tea"`)
	p.Eval(t, rooms+`.querySelector("form").requestSubmit()`)
	p.Wait(t, rooms+`.querySelector("tbody").textContent.includes("tea")`)
	p.Screenshot(t, shot("admin-ui-socket.png"))
	node[0].post("/emit", testEmitKey, `{"room":"tea","event":"/hello","args":["secret"]}`)
	if got := next(t, phone); got != `/hello ["secret"]` {
		t.Errorf("who has joined gets %q", got)
	}
	open(t, p, "rooms")
	p.Wait(t, listed("tea")+" && "+listed("user:7"))
	open(t, p, "events")
	p.Wait(t, listed("/hello")+" && "+listed("tea"))
	if strings.Contains(p.Text(t, "main"), "secret") {
		t.Error("an argument is on the page")
	}
	p.Screenshot(t, shot("admin-ui-events.png"))

	open(t, p, "sockets")
	p.Wait(t, listed(laptop.ID))
	p.Eval(t, fmt.Sprintf(`[...document.querySelectorAll("tbody tr")].find((r) => r.textContent.includes(%q)).querySelector("button").click()`, laptop.ID))
	if why := laptop.Reason(); why != "disconnected by the server" {
		t.Errorf("the laptop ended because: %s", why)
	}
	open(t, p, "sockets") // the click has led to the socket, too
	p.Wait(t, listed(phone.ID)+" && !"+listed(laptop.ID))

	third := dialUser(t, client.Options{URL: node[0].url()}, "8") // the page itself is the second
	p.Wait(t, listed(third.ID))
	const drawer = `document.querySelector(".v-navigation-drawer").textContent.includes("Sockets")`
	if p.Eval(t, drawer) != true {
		t.Error("at the limit there is no list of sockets")
	}
	dialUser(t, client.Options{URL: node[0].url()}, "9") // one more than the page lists
	p.Wait(t, "!"+drawer)
	if problems := append(b.Problems(), b.Refused()...); len(problems) > 0 {
		t.Errorf("the browser says %q", problems)
	}
}

// listed is true when the table of the page has a text in it.
func listed(text string) string {
	return fmt.Sprintf(`document.querySelector("main tbody")?.textContent.includes(%q)`, text)
}

// TestWithoutTheSettingNobodyComesInForTheAdminUI, and with it nobody without the password; other events stay refused.
func TestWithoutTheSettingNobodyComesInForTheAdminUI(t *testing.T) {
	t.Parallel()
	off := start(t, enough).ready()
	on := start(t, enough, "--admin-ui.mode=production", "--admin-ui.password="+uiPassword, "--admin-ui.namespace=/ops", "--admin-ui.username=root", "--emit.events=/users/ping").ready()
	auth := func(user, password string) map[string]string {
		return map[string]string{"username": user, "password": password}
	}
	for _, c := range []struct {
		name string
		o    client.Options
		want string // of the refusal
	}{
		{"it is off", client.Options{URL: off.url(), Namespace: "/admin", Auth: auth("admin", uiPassword)}, "Invalid namespace"},
		{"another namespace", client.Options{URL: on.url(), Namespace: "/admin", Auth: auth("root", uiPassword)}, "Invalid namespace"},
		{"no password", client.Options{URL: on.url(), Namespace: "/ops"}, "invalid credentials"},
		{"another name", client.Options{URL: on.url(), Namespace: "/ops", Auth: auth("admin", uiPassword)}, "invalid credentials"},
		{"the token of a user", client.Options{URL: on.url(), Namespace: "/ops", Auth: map[string]string{"token": tokenFor(t, "42", time.Hour)}}, "invalid credentials"},
		{"the operator", client.Options{URL: on.url(), Namespace: "/ops", Auth: auth("root", uiPassword)}, ""},
	} {
		conn, err := tryDial(t, c.o)
		var refused *client.Refused
		switch {
		case c.want == "" && err == nil:
			if got := next(t, conn); !strings.HasPrefix(got, "session ") {
				t.Errorf("%s: first comes %s", c.name, got)
			}
		case c.want == "" || !errors.As(err, &refused) || refused.Message != c.want:
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if got := on.post("/emit", testEmitKey, `{"everyone":true,"event":"/other"}`); got.status != http.StatusBadRequest {
		t.Errorf("an event that may not be emitted: %v", got)
	}
	if got := on.post("/emit", testEmitKey, `{"everyone":true,"namespace":"/ops","event":"config"}`); got.status != http.StatusBadRequest {
		t.Errorf("an event to the pages: %v", got)
	}
	if log := on.log(); strings.Contains(log, uiPassword) {
		t.Errorf("the password is in the log: %s", log)
	}
}
