package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/examples/internal/exampletest"
	"tether/hub"
	"tether/hubtest"
	"tether/token"
)

func start(t *testing.T, args ...string) string {
	t.Helper()
	printed, _ := exampletest.Start(t, run, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	address, _, _ := strings.Cut(strings.TrimPrefix(printed, "listening on "), ";")
	return address
}

// browser keeps cookies.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar}
}

func post(t *testing.T, b *http.Client, address string, form url.Values) (int, string) {
	t.Helper()
	answer, err := b.PostForm(address, form)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, strings.TrimSpace(string(body))
}

var alice = url.Values{"user": {"alice"}, "password": {"secret"}}

const greeting = `42["/ops/connection-success",{"message":"Successfully connected"}]`

func TestFromTheLoginToTheHub(t *testing.T) {
	address := start(t)
	b := browser(t)
	if status, _ := post(t, b, address+"/socket-token", nil); status != http.StatusUnauthorized {
		t.Errorf("token without a login: %d", status)
	}
	if status, _ := post(t, b, address+"/login", url.Values{"user": {"alice"}, "password": {"wrong"}}); status != http.StatusUnauthorized {
		t.Errorf("login with a wrong password: %d", status)
	}
	if status, _ := post(t, b, address+"/login", alice); status != http.StatusNoContent {
		t.Fatalf("login: %d", status)
	}
	status, tok := post(t, b, address+"/socket-token", nil)
	if status != http.StatusOK {
		t.Fatalf("token: %d", status)
	}
	c := exampletest.Connect(t, address, tok)
	c.Want(`40{"sid":"…`, greeting)

	if status, body := post(t, b, address+"/logout", nil); status != http.StatusNoContent {
		t.Errorf("logout: %d %s", status, body)
	}
	c.Want("41", "1")
	if status, _ := post(t, b, address+"/socket-token", nil); status != http.StatusUnauthorized {
		t.Errorf("token after the logout: %d", status)
	}
}

func TestTheConnectionEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := loadKeys("", "")
		if err != nil {
			t.Fatal(err)
		}
		s := &site{keys: keys}
		node := hubtest.Start(t, func(b broker.Broker) (*hub.Hub, error) {
			h, err := hub.New(b, hub.Options{})
			if err == nil {
				h.Of("/").OnConnect(s.connect)
			}
			return h, err
		})
		tok, err := keys.SealUser("alice", 10*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		auth := map[string]string{"token": tok}
		c := node.Connect(auth)
		time.Sleep(10*time.Minute + time.Second)
		c.ExpectEnd(hub.ReasonServerDisconnect)
		node.ExpectRefusal(auth, "unauthorized")
	})
}

func TestACookieDoesToo(t *testing.T) {
	address := start(t, "-cookie")
	exampletest.Connect(t, address, "").Want(`44{"message":"unauthorized"}`)

	b := browser(t)
	post(t, b, address+"/login", alice)
	u, _ := url.Parse(address)
	c := exampletest.ConnectWith(t, address, "", http.Header{"Cookie": {b.Jar.Cookies(u)[0].String()}})
	c.Want(`40{"sid":"…`, greeting)
}

func TestKeysComeFromTheEnvironment(t *testing.T) {
	before, now := token.GenerateKey(), token.GenerateKey()
	old, err := loadKeys(before, "")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := old.SealUser("alice", 0)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := loadKeys(now, before)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := keys.OpenUser(tok); err != nil || id.User != "alice" {
		t.Errorf("OpenUser = %+v, %v", id, err)
	}
	for _, pair := range [][2]string{{"x", ""}, {now, "x"}} {
		if _, err := loadKeys(pair[0], pair[1]); err == nil {
			t.Errorf("loadKeys(%q, %q) took it", pair[0], pair[1])
		}
	}
}
