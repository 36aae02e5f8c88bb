package browser

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

// Page is one tab.
type Page struct {
	b       *Browser
	target  string
	session string
}

// Open opens a new tab at url and returns when it has loaded.
func (b *Browser) Open(t testing.TB, url string) *Page {
	t.Helper()
	var target struct {
		TargetID string `json:"targetId"`
	}
	b.call(t, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct {
		SessionID string `json:"sessionId"`
	}
	b.call(t, "", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	p := &Page{b: b, target: target.TargetID, session: attached.SessionID}
	p.call(t, "Fetch.enable", map[string]any{"patterns": []map[string]string{{"urlPattern": "*"}}}, nil)
	p.call(t, "Runtime.enable", nil, nil)
	p.call(t, "Log.enable", nil, nil)
	p.call(t, "Page.enable", nil, nil)
	var navigated struct {
		ErrorText string `json:"errorText"`
	}
	p.call(t, "Page.navigate", map[string]any{"url": url}, &navigated)
	if navigated.ErrorText != "" {
		t.Fatalf("browser: open %s: %s", url, navigated.ErrorText)
	}
	p.Wait(t, `document.readyState === "complete"`)
	return p
}

// Close closes the tab.
func (p *Page) Close(t testing.TB) {
	t.Helper()
	p.b.call(t, "", "Target.closeTarget", map[string]any{"targetId": p.target}, nil)
}

func (p *Page) call(t testing.TB, method string, params, result any) {
	t.Helper()
	p.b.call(t, p.session, method, params, result)
}

// Eval is the value of a JavaScript expression in the page, as JSON makes it a Go value. A promise is
// awaited.
func (p *Page) Eval(t testing.TB, expression string) any {
	t.Helper()
	var r struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		ExceptionDetails *struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		} `json:"exceptionDetails"`
	}
	p.call(t, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &r)
	if e := r.ExceptionDetails; e != nil {
		t.Fatalf("browser: %s: %v", expression, pageError(e.Text, e.Exception.Description))
	}
	return r.Result.Value
}

// Wait returns when a JavaScript expression is true, and fails the test if it takes too long.
func (p *Page) Wait(t testing.TB, expression string) {
	t.Helper()
	met := p.Eval(t, fmt.Sprintf(`new Promise((resolve) => {
		const end = Date.now() + %d;
		const look = () => {
			let met = false;
			try { met = Boolean(%s); } catch {}
			if (met || Date.now() > end) resolve(met);
			else setTimeout(look, 20);
		};
		look();
	})`, (timeout/2).Milliseconds(), expression))
	if met != true {
		t.Fatalf("browser: it did not become true that %s; the page says:\n%v", expression, p.Eval(t, "document.body.innerText"))
	}
}

// Text is the text of the first element that matches the CSS selector.
func (p *Page) Text(t testing.TB, selector string) string {
	t.Helper()
	s, _ := p.Eval(t, fmt.Sprintf("document.querySelector(%s).innerText", quote(selector))).(string)
	return s
}

// Fill gives a form field a value, as if it had been typed.
func (p *Page) Fill(t testing.TB, selector, value string) {
	t.Helper()
	p.Eval(t, fmt.Sprintf(`(() => {
		const e = document.querySelector(%s);
		e.focus();
		e.value = %s;
		e.dispatchEvent(new Event("input", {bubbles: true}));
		e.dispatchEvent(new Event("change", {bubbles: true}));
	})()`, quote(selector), quote(value)))
}

// Click clicks the first element that matches the CSS selector.
func (p *Page) Click(t testing.TB, selector string) {
	t.Helper()
	p.Eval(t, fmt.Sprintf("document.querySelector(%s).click()", quote(selector)))
}

// Emulate gives the page a screen of so many pixels, and a dark colour scheme or a light one.
func (p *Page) Emulate(t testing.TB, width, height int, dark bool) {
	t.Helper()
	p.call(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	scheme := map[bool]string{false: "light", true: "dark"}[dark]
	p.call(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// Offline takes the network away from the page, or gives it back, and tells the page so: the events are offline and
// online. Requests fail, and so do new WebSockets; a WebSocket that is open stays, until the page closes it.
func (p *Page) Offline(t testing.TB, offline bool) {
	t.Helper()
	p.call(t, "Network.enable", nil, nil)
	p.call(t, "Network.emulateNetworkConditions", map[string]any{"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}, nil)
}

// Freeze stops the page as a browser does with a tab in the background, or lets it go on. Meanwhile no timer fires in
// it and no event comes, so Wait does not work. It counts as hidden from then on.
func (p *Page) Freeze(t testing.TB, frozen bool) {
	t.Helper()
	state := map[bool]string{false: "active", true: "frozen"}[frozen]
	p.call(t, "Page.setWebLifecycleState", map[string]any{"state": state}, nil)
}

// Screenshot writes the whole page to a PNG file.
func (p *Page) Screenshot(t testing.TB, file string) {
	t.Helper()
	p.call(t, "Page.bringToFront", nil, nil)
	var r struct {
		Data string `json:"data"`
	}
	p.call(t, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &r)
	data, err := base64.StdEncoding.DecodeString(r.Data)
	if err == nil {
		err = os.WriteFile(file, data, 0o644)
	}
	if err != nil {
		t.Fatalf("browser: screenshot: %v", err)
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s) // a string always can be
	return string(b)
}
