package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"tether/hub"
	"tether/refresh"
	"tether/revoke"
	"tether/token"
)

// guarded is a namespace whose clients have tokens: "USER TIME", good for that long.
func guarded(h *hub.Hub) {
	open := func(_ context.Context, tok string) (refresh.Token, error) {
		user, text, _ := strings.Cut(tok, " ")
		life, err := time.ParseDuration(text)
		if err != nil {
			return refresh.Token{}, token.ErrInvalid
		}
		return refresh.Token{Token: revoke.Token{User: hub.User(user)}, Expires: time.Now().Add(life)}, nil
	}
	tokens, err := refresh.New(h, refresh.Options{Open: open})
	if err != nil {
		panic(err)
	}
	n := h.Of("/guarded")
	n.On(refresh.Event, tokens.Handle)
	n.OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var auth struct{ Token string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
			return err
		}
		t, err := open(ctx, auth.Token)
		if err != nil {
			return err
		}
		s.ExpireAt(t.Expires)
		return s.RegisterAs(ctx, t.User)
	})
}

func TestClientsBringNewTokens(t *testing.T) {
	n := serve(t, setup{notice: time.Hour, install: guarded})
	everyWay(t, func(t *testing.T, w way) {
		c := w.dial(t, n, "/guarded", map[string]any{"auth": map[string]any{"token": "alice 30m"}})
		id := c.on(t, "connect").SID
		c.event(t, "/ops/connection-success", map[string]any{"message": "Successfully connected"})
		if l := c.next(t); l.Event != "/ops/token-expires" {
			t.Fatalf("got %v, want the notice", l)
		}
		for tok, want := range map[string]string{
			"alice":   `[<nil> map[message:the token is not valid]]`,
			"bob 24h": `[<nil> map[message:the token is not of the user of this connection]]`,
		} {
			if got := fmt.Sprint(c.call(t, refresh.Event, tok)); got != want {
				t.Errorf("%s: got %s, want %s", tok, got, want)
			}
		}
		if got := c.call(t, refresh.Event, "alice 24h"); len(got) != 1 || got[0] == nil {
			t.Errorf("got %v", got)
		}
		if _, err := n.hub.Emitter().In("/guarded").Emit(t.Context(), hub.SocketID(id), "still here", 1); err != nil {
			t.Fatal(err)
		}
		c.event(t, "still here", 1)
		if got := c.call(t, refresh.Event, "alice 1s"); len(got) != 1 || got[0] == nil {
			t.Errorf("got %v", got)
		}
		l := c.next(t)
		if l.Event == "/ops/token-expires" { // there may have been time for it
			l = c.next(t)
		}
		if l.On != "disconnect" {
			t.Errorf("got %v, want the end", l)
		}
	})
}

// TestTheFrontEndOfTheGuideBringsANewToken runs the code of docs/registering.md.
func TestTheFrontEndOfTheGuideBringsANewToken(t *testing.T) {
	node, err := exec.LookPath("node")
	need(t, err)
	modules, err := nodeModules()
	need(t, err)
	guide, err := os.ReadFile("../../docs/registering.md")
	if err != nil {
		t.Fatal(err)
	}
	snippet := regexp.MustCompile("(?ms)^```js\n(socket\\.on\\(\"/ops/token-expires\".*?)^```$").FindSubmatch(guide)
	if snippet == nil {
		t.Fatal("docs/registering.md has no handler of the notice")
	}
	n := serve(t, setup{notice: time.Hour, install: guarded})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	run := exec.CommandContext(ctx, node, "-e", `
		const { io } = require("socket.io-client");
		const tokens = ["alice 30m", "alice 20m", "bob 1h"]; // each is so near its end that there is another notice
		const socketToken = async () => tokens.shift();
		const print = (text) => {
			console.log(text);
			if (tokens.length === 0) socket.disconnect();
		};
		const socket = io(process.argv[1] + "/guarded", { auth: { token: "alice 10m" } });
		`+string(snippet[1])+`
		socket.on("disconnect", (reason) => console.log(reason));
	`, n.url)
	run.Env = append(os.Environ(), "NODE_PATH="+modules)
	var problems bytes.Buffer
	run.Stderr = &problems
	out, err := run.Output()
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, problems.Bytes())
	}
	want := "refreshed\nrefreshed\nrefused: the token is not of the user of this connection\nio client disconnect\n"
	if string(out) != want {
		t.Errorf("got %s, want %s", out, want)
	}
}
