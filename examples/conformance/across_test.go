package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"tether/examples/internal/exampletest"
	"tether/internal/backend"
	"tether/token"
)

// lineReader starts a server, and returns its URL and the lines that it prints.
func lineReader(t *testing.T, args ...string) (base string, lines <-chan string) {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context()) // so all servers of a test begin to end together
	ended := make(chan error, 1)
	go func() { // waited for by the cleanup
		ended <- runAtOnce(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), w, t.Output())
		w.Close()
	}()
	out := make(chan string, 100)
	go func() { // ends with the pipe
		defer close(out)
		for s := bufio.NewScanner(r); s.Scan(); {
			out <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		for range out { // to its end
		}
	})
	addr, ok := strings.CutPrefix(<-out, "listening on ")
	if !ok {
		t.Fatal("the server does not listen")
	}
	return "http://" + addr, out
}

// TestAcrossServers: what conformance servers do together, on each broker.
func TestAcrossServers(t *testing.T) {
	t.Parallel()
	for name, broker := range brokersOf(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := token.GenerateKey()
			key, err := token.NewKey(text)
			if err != nil {
				t.Fatal(err)
			}
			a, linesA := lineReader(t, "-broker", broker, "-node", "A", "-token-key", text)
			b, linesB := lineReader(t, "-broker", broker, "-node", "B", "-token-key", text)
			two := name != "memory" // whose servers know nothing of each other
			awaitMembers(t, a, two)
			sealed, err := token.NewKeyring(key).Seal("42")
			if err != nil {
				t.Fatal(err)
			}
			join := func(base string) (*exampletest.Client, string) {
				c := exampletest.Connect(t, base, exampletest.JSON(map[string]string{"token": sealed}))
				var open struct{ SID string }
				if err := json.Unmarshal([]byte(strings.TrimPrefix(c.Next(), "40")), &open); err != nil {
					t.Fatal(err)
				}
				c.Want(`42["/ops/connection-success",…`, `42["welcome",…`)
				c.Send(`421["join","r"]`)
				c.Want(`431["ok"]`)
				return c, open.SID
			}
			first, idA := join(a)
			clients, ids, nodes := []*exampletest.Client{first}, []string{idA}, []string{"A"}
			if two {
				second, idB := join(b)
				clients, ids, nodes = append(clients, second), append(ids, idB), append(nodes, "B")
			}
			slices.Sort(ids)
			all := exampletest.JSON(ids)

			first.Send(`422["cluster-sockets","r"]`)
			first.Want("432[" + all + "]")
			first.Send(`423["cluster-sockets",null]`)
			first.Want("433[" + all + "]")
			first.Send(`424["cluster-join","r","s"]`)
			first.Want(`434["ok"]`)
			first.Send(`425["cluster-sockets","s"]`)
			first.Want("435[" + all + "]")
			first.Send(`426["cluster-leave","r","s"]`)
			first.Want(`436["ok"]`)
			first.Send(`427["cluster-sockets","s"]`)
			first.Want("437[[]]")
			first.Send(`428["server-side","x"]`)
			if two {
				first.Want(`438[["B:x"]]`)
				first.Send(`429["server-side",1000000]`)
				first.Want(`439[["B:1000000"]]`)
			} else {
				first.Want(`438[[]]`)
			}

			if status, got := exampletest.Post(t, a+"/online", `{"users":["42","43"]}`); status != http.StatusOK || !onlineIs(got, nodes) {
				t.Errorf("online: %d %s", status, got)
			}
			if status, got := exampletest.Post(t, a+"/online", `{"users":[""]}`); status != http.StatusBadRequest {
				t.Errorf("online without a user: %d %s", status, got)
			}
			wantLine(t, "online 42", linesA, linesB)

			first.Send(`42["cluster-disconnect","nobody",true]`)
			if status, got := exampletest.Post(t, a+"/revoke", `{"user":"42"}`); status != http.StatusOK || got != fmt.Sprintf(`{"missing":[],"sockets":%d}`, len(clients)) {
				t.Errorf("revoke: %d %s", status, got)
			}
			for _, c := range clients {
				c.Want("41")
			}
			for _, base := range []string{a, b}[:len(clients)] {
				exampletest.Connect(t, base, exampletest.JSON(map[string]string{"token": sealed})).Want(`44{"message":"unauthorized"}`)
			}
			wantLine(t, "offline 42", linesA, linesB)
		})
	}
}

// tokenOf returns a key, and a token of a user that is sealed with it.
func tokenOf(t *testing.T, user string) (key, sealed string) {
	t.Helper()
	key = token.GenerateKey()
	k, err := token.NewKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if sealed, err = token.NewKeyring(k).Seal(user); err != nil {
		t.Fatal(err)
	}
	return key, sealed
}

// TestARevokedUserDoesNotComeBackToItsSession: not where the session waits, not on the node that was told first, and not
// on one that has started since.
func TestARevokedUserDoesNotComeBackToItsSession(t *testing.T) {
	t.Parallel()
	for name, broker := range brokersOf(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, sealed := tokenOf(t, "42")
			server := func(node string) string {
				return start(t, "-broker", broker, "-node", node, "-token-key", text, "-recovery", "1h")
			}
			a := server("A")
			bases := []string{a}
			if two := name != "memory"; two {
				bases = append(bases, server("B"))
				awaitMembers(t, a, true)
				awaitMembers(t, bases[1], true)
			}
			var pids []string
			for i := range 3 {
				c := exampletest.Connect(t, a, exampletest.JSON(map[string]string{"token": sealed}))
				var open struct{ PID string }
				if err := json.Unmarshal([]byte(strings.TrimPrefix(c.Next(), "40")), &open); err != nil || open.PID == "" {
					t.Fatalf("%+v, %v", open, err)
				}
				pids = append(pids, open.PID)
				c.Want(`42["/ops/connection-success",…`, `42["welcome",…`)
				c.Emit("drop")
				c.Want("1")
				awaitParked(t, a, i+1)
			}
			if status, got := exampletest.Post(t, bases[len(bases)-1]+"/revoke", `{"user":"42"}`); status != http.StatusOK || got != `{"missing":[],"sockets":0}` {
				t.Errorf("revoke: %d %s", status, got)
			}
			if n := parked(t, a); n != 0 {
				t.Errorf("%d sessions wait for a user that is revoked", n)
			}
			if len(bases) > 1 {
				bases = append(bases, server("C"))
			}
			for i, base := range bases {
				c := exampletest.Connect(t, base, exampletest.JSON(map[string]string{"token": sealed, "pid": pids[i]}))
				c.Want(`44{"message":"unauthorized"}`)
			}
		})
	}
}

// TestAClientThatComesBackWithoutItsTokenIsNobody: its session ends, on the node that has it and on another one.
func TestAClientThatComesBackWithoutItsTokenIsNobody(t *testing.T) {
	t.Parallel()
	for name, broker := range brokersOf(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, sealed := tokenOf(t, "42")
			server := func(node string) string {
				return start(t, "-broker", broker, "-node", node, "-token-key", text, "-recovery", "1h")
			}
			bases := []string{server("A")}
			if name != "memory" { // whose servers know nothing of each other
				bases = append(bases, server("B"))
				awaitMembers(t, bases[0], true)
				awaitMembers(t, bases[1], true)
			}
			for i, base := range bases {
				c := exampletest.Connect(t, bases[0], exampletest.JSON(map[string]string{"token": sealed}))
				var open struct{ PID string }
				if err := json.Unmarshal([]byte(strings.TrimPrefix(c.Next(), "40")), &open); err != nil || open.PID == "" {
					t.Fatalf("%+v, %v", open, err)
				}
				c.Want(`42["/ops/connection-success",…`, `42["welcome",…`)
				c.Emit("drop")
				c.Want("1")
				exampletest.Post(t, base+"/emit", `{"user":"42","event":"secret"}`)

				auth := exampletest.JSON(map[string]string{"pid": open.PID})
				exampletest.Connect(t, base, auth).Want("1") // it is to come back once more
				c = exampletest.Connect(t, base, auth)
				c.Want(`40{"sid":"…`, `42["welcome",…`)
				c.Send(`421["rooms"]`)
				if got := c.Next(); !strings.HasPrefix(got, "431[[") || strings.Contains(got, "42\"]") {
					t.Errorf("on node %d its rooms are %s", i, got)
				}
			}
		})
	}
}

// TestARoomIsAskedAndDisconnectedAcrossServers: each socket answers once, what does not answer in time is left out, and all
// sockets of a room are disconnected.
func TestARoomIsAskedAndDisconnectedAcrossServers(t *testing.T) {
	t.Parallel()
	for name, broker := range brokersOf(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bases := []string{start(t, "-broker", broker, "-node", "A")}
			if name != "memory" { // whose servers know nothing of each other
				bases = append(bases, start(t, "-broker", broker, "-node", "B"))
				awaitMembers(t, bases[0], true)
			}
			asker := exampletest.Connect(t, bases[0], "")
			asker.Want(`40{"sid":"…`, `42["welcome",…`)
			var room []*exampletest.Client
			for i := range 2 {
				c := exampletest.Connect(t, bases[i%len(bases)], "")
				c.Want(`40{"sid":"…`, `42["welcome",…`)
				c.Send(`421["join","r"]`)
				c.Want(`431["ok"]`)
				room = append(room, c)
			}
			asker.Send(`422["ask-room","r",{"n":1}]`)
			answer(t, room[1], `["question",{"n":1}]`, `["b"]`)
			answer(t, room[0], `["question",{"n":1}]`, `["a","more"]`)
			asker.Want(`432[{"answers":["a","b"],"timeout":false}]`)

			for got, want := "", `433[{"answers":[7],"timeout":true}]`; got != want; {
				asker.Send(`423["ask-room","r",2]`)
				answer(t, room[1], `["question",2]`, `[7]`)
				got = asker.Next()
				room[0].Next()                                                  // the question that it does not answer
				if got != want && got != `433[{"answers":[],"timeout":true}]` { // a busy machine may answer too late
					t.Fatalf("got %s, want %s", got, want)
				}
			}

			asker.Send(`424["ask-room","nobody",3]`)
			asker.Want(`434[{"answers":[],"timeout":false}]`)

			asker.Send(`425["cluster-disconnect","r",false]`)
			asker.Want(`435["ok"]`)
			for _, c := range room {
				c.Want("41")
				c.Send("40/custom,") // its connection has stayed
				c.Want(`40/custom,{"sid":"…`, `42/custom,["hello","custom"]`)
			}
			asker.Send(`426["cluster-sockets","r"]`)
			asker.Want("436[[]]")
		})
	}
}

// answer answers an event that a client gets.
func answer(t *testing.T, c *exampletest.Client, event, args string) {
	t.Helper()
	got := c.Next()
	id, is := strings.CutSuffix(strings.TrimPrefix(got, "42"), event)
	if !is || id == "" {
		t.Fatalf("got %s, want %s with an acknowledgement", got, event)
	}
	c.Send("43" + id + args)
}

// brokersOf are the URLs of brokers of all kinds, by name.
func brokersOf(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		"Redis": backend.Redis(t).URL, "NATS": backend.NATS(t).URL, "memory": "memory://" + url.PathEscape(t.Name()),
	}
}

// onlineIs reports whether user 42 has a device on each of the nodes, and user 43 has none.
func onlineIs(text string, nodes []string) bool {
	var got struct {
		Users map[string]struct {
			Online  bool
			Devices []struct{ Node, Transport string }
		}
		Missing []string
	}
	if json.Unmarshal([]byte(text), &got) != nil || len(got.Missing) > 0 || got.Missing == nil {
		return false
	}
	var on []string
	for _, d := range got.Users["42"].Devices {
		if d.Transport == "polling" {
			on = append(on, d.Node)
		}
	}
	slices.Sort(on)
	return got.Users["42"].Online && slices.Equal(on, nodes) && !got.Users["43"].Online && got.Users["43"].Devices != nil
}

// wantLine waits for a line, which one of the two prints.
func wantLine(t *testing.T, want string, a, b <-chan string) {
	t.Helper()
	var got string
	select {
	case got = <-a:
	case got = <-b:
	case <-time.After(time.Minute):
	}
	if got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

// awaitMembers waits until a server knows the other one.
func awaitMembers(t *testing.T, base string, two bool) {
	t.Helper()
	want := `"members":["A"]`
	if two {
		want = `"members":["A","B"]`
	}
	awaitList(t, base, want)
}

// awaitList waits until a server's list of members is as wanted.
func awaitList(t *testing.T, base, want string) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, got := exampletest.Get(t, base+"/stats")
		if strings.Contains(got, want) {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("stats: %s", got)
		}
	}
}
