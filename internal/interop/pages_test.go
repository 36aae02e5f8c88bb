package interop

import (
	"strings"
	"testing"

	"tether/internal/backend"
	"tether/internal/interop/browser"
	"tether/internal/long"
)

// has is an expression that is true when an element of the page has a text in it.
func has(selector, text string) string {
	return `document.querySelector("` + selector + `").textContent.includes("` + text + `")`
}

func TestTheChatPageTalks(t *testing.T) {
	long.Only(t)
	t.Parallel()
	chromium, err := browser.Find()
	need(t, err)
	page := startExample(t, "chat", 1)[0]
	b := browser.Start(t, chromium)
	ann, ben := b.Open(t, page), b.Open(t, page)
	for name, p := range map[string]*browser.Page{"Ann": ann, "Ben": ben} {
		p.Fill(t, "#name", name)
		p.Fill(t, "#room", "tea")
		p.Click(t, "#join button")
		p.Wait(t, has("#lines", "You are in tea."))
	}
	both := `[...document.querySelectorAll("#online li")].map((li) => li.textContent).join() === "Ann,Ben"`
	ann.Wait(t, both)
	ben.Wait(t, both)

	ann.Fill(t, "#text", "hello")
	ben.Wait(t, has("#typing", "Ann is typing"))
	ben.Emulate(t, 1200, 900, false)
	screenshot(t, ben, "chat")
	ben.Emulate(t, 360, 740, false)
	screenshot(t, ben, "chat-phone")
	ann.Click(t, "#say button")
	ben.Wait(t, has("#lines", "tea · Ann: hello"))
	ben.Wait(t, `document.querySelector("#typing").textContent === ""`)

	ann.Fill(t, "#text", "nothing more comes")
	ben.Wait(t, has("#typing", "Ann is typing"))
	ben.Wait(t, `document.querySelector("#typing").textContent === ""`)

	ann.Close(t)
	ben.Wait(t, `document.querySelector("#online").textContent === "Ben"`)
	wantNoProblems(t, b)
}

func TestTheAuthPageLogsIn(t *testing.T) {
	long.Only(t)
	t.Parallel()
	chromium, err := browser.Find()
	need(t, err)
	page := startExample(t, "auth", 1)[0]
	b := browser.Start(t, chromium)
	p := b.Open(t, page)
	p.Wait(t, has("#lines", "log in, please"))
	p.Fill(t, "[name=user]", "alice")
	p.Fill(t, "[name=password]", "secret")
	p.Click(t, "#login button")
	p.Wait(t, has("#lines", "Successfully connected"))
	p.Click(t, "#logout")
	p.Wait(t, has("#lines", "io server disconnect"))
	screenshot(t, p, "auth")
	if refused := b.Refused(); len(refused) > 0 {
		t.Errorf("the page asked for %q", refused)
	}
}

func TestAPageWithoutAClientSaysSo(t *testing.T) {
	long.Only(t)
	t.Parallel()
	chromium, err := browser.Find()
	need(t, err)
	places := map[string]string{"quickstart": "#notice", "chat": "#lines", "auth": "#lines"}
	pages := map[string]string{}
	for name := range places {
		pages[name] = startExample(t, name, 1)[0]
	}
	b := browser.Start(t, chromium) // the programs end after it: they wait for open connections
	for name, where := range places {
		page := pages[name]
		b.Route(page+"/socket.io.min.js", "text/javascript", nil)
		p := b.Open(t, page)
		p.Wait(t, has(where, "This page has no Socket.IO client"))
		screenshot(t, p, name+"-without-client")
	}
}

func TestTheLightOfTheQuickstartIsNotGreenWithoutABroker(t *testing.T) {
	long.Only(t)
	t.Parallel()
	chromium, err := browser.Find()
	need(t, err)
	server := backend.Redis(t)
	page := startExample(t, "quickstart", 1, "-broker", server.URL)[0]
	b := browser.Start(t, chromium)
	p := b.Open(t, page)
	login(t, p, "alice")
	server.Stop()
	p.Wait(t, has("#status", "broker is away"))
	if light := p.Eval(t, `document.querySelector("#dot").className`); strings.Contains(light.(string), "good") {
		t.Errorf("the light is %v", light)
	}
	screenshot(t, p, "quickstart-without-broker")
	server.Start()
	p.Wait(t, `document.querySelector("#status").textContent === "connected"`)
}
