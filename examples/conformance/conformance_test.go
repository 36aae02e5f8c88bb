package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"tether/examples/internal/exampletest"
	"tether/internal/long"
	"tether/token"
)

// runAtOnce is run without a window for the drain, so that no test waits for it.
func runAtOnce(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	o.hub.DrainWindow = -1
	return o.run(ctx, stdout)
}

// start runs the server and returns its URL.
func start(t *testing.T, args ...string) string {
	t.Helper()
	printed, _ := exampletest.Start(t, runAtOnce, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	addr, ok := strings.CutPrefix(strings.TrimSpace(printed), "listening on ")
	if !ok {
		t.Fatalf("printed %q", printed)
	}
	return "http://" + addr
}

// connect connects to "/" and returns the client and the ID of its socket.
func connect(t *testing.T, base string) (*exampletest.Client, string) {
	t.Helper()
	c := exampletest.Connect(t, base, "")
	var open struct {
		SID string `json:"sid"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(c.Next(), "40")), &open); err != nil {
		t.Fatal(err)
	}
	c.Want(`42["welcome",{"id":"` + open.SID + `","auth":{},"node":"A"}]`)
	return c, open.SID
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		serveChild()
		return
	}
	long.Parallel(6) // they wait more than they compute
	os.Exit(m.Run())
}

func TestTheWelcomeRepeatsWhatTheClientSaid(t *testing.T) {
	c := exampletest.Connect(t, start(t, "-node", "left"), `{"token":"x","n":1.0}`)
	c.Want(`40{"sid":"…`)
	if got := c.Next(); !strings.HasSuffix(got, `,"auth":{"token":"x","n":1.0},"node":"left"}]`) {
		t.Errorf("welcome %s", got)
	}
}

func TestEventsToOneSocket(t *testing.T) {
	c, id := connect(t, start(t))
	for _, row := range []struct {
		send string
		want []string
	}{
		{`42["echo","a",1.0,{"b":null,"a":[]}]`, []string{`42["echo-back","a",1.0,{"b":null,"a":[]}]`}},
		{`42["echo"]`, []string{`42["echo-back"]`}},
		{"452-[\"echo\",{\"_placeholder\":true,\"num\":0},{\"a\":{\"_placeholder\":true,\"num\":1}}]\x1ebAQID\x1ebaGk=",
			[]string{`452-["echo-back",{"_placeholder":true,"num":0},{"a":{"_placeholder":true,"num":1}}]`, "bAQID", "baGk="}},
		{`427["echo-ack","x",2]`, []string{`437["x",2]`}},
		{`428["echo-ack"]`, []string{`438[]`}},
		{`429["join","r"]`, []string{`439["ok"]`}},
		{`4210["leave","r"]`, []string{`4310["ok"]`}},
		{`42["big",5]`, []string{`42["big","xxxxx"]`}},
		{`42["many",3]`, []string{`42["seq",0]`, `42["seq",1]`, `42["seq",2]`}},
		{`4211["transport"]`, []string{`4311["polling"]`}},
		{`4212["count"]`, []string{`4312[1]`}},
		{`4213["node"]`, []string{`4313["A"]`}},
		{`4214["rooms"]`, []string{`4314[["` + id + `"]]`}},
	} {
		c.Send(row.send)
		c.Want(row.want...)
	}
	// What is volatile comes if a poll waits for it.
	c.Send(`42["echo",1]` + "\x1e" + `42["volatile","v"]` + "\x1e" + `42["echo",2]`)
	c.Want(`42["echo-back",1]`)
	if next := c.Next(); next != `42["echo-back",2]` {
		if next != `42["v"]` {
			t.Errorf("got %s behind the first echo", next)
		}
		c.Want(`42["echo-back",2]`)
	}
}

func TestRoomsAreSorted(t *testing.T) {
	c, id := connect(t, start(t))
	want := []string{id, "a", "zz"}
	for _, room := range []string{"zz", "a"} {
		c.Send(`421["join","` + room + `"]`)
		c.Want(`431["ok"]`)
	}
	if id > "a" {
		want = []string{"a", id, "zz"}
	}
	if id > "zz" {
		want = []string{"a", "zz", id}
	}
	c.Send(`422["rooms"]`)
	c.Want("432[" + exampletest.JSON(want) + "]")
}

func TestTheHandshakeIsShown(t *testing.T) {
	base := start(t)
	c := exampletest.ConnectWith(t, base, `{"a":1}`, http.Header{"X-Sioclient": {"yes"}})
	c.Want(`40{"sid":"…`, `42["welcome",…`)
	c.Send(`421["handshake"]`)
	c.Want(`431[{"auth":{"a":1},"header":"yes","query":{"EIO":"4","transport":"polling"}}]`)

	plain, _ := connect(t, base)
	plain.Send(`421["handshake"]`)
	plain.Want(`431[{"auth":{},"header":null,"query":{"EIO":"4","transport":"polling"}}]`)
}

func TestAQuestionIsAnsweredOrTimesOut(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, start(t))
	c.Send(`42["ask","q",1]`)
	c.Want(`420["question","q",1]`)
	c.Send(`430["a",2]`)
	c.Want(`42["answer","ok","a",2]`)

	c.Send(`42["ask"]`)
	c.Want(`421["question"]`)
	c.Send(`42["echo","meanwhile"]`)
	c.Want(`42["echo-back","meanwhile"]`, `42["answer","timeout"]`)
}

func TestEventsToOthers(t *testing.T) {
	base := start(t)
	a, idA := connect(t, base)
	b, _ := connect(t, base)
	for _, c := range []*exampletest.Client{a, b} {
		c.Send(`421["join","r"]`)
		c.Want(`431["ok"]`)
	}
	b.Send(`421["join","s"]`)
	b.Want(`431["ok"]`)
	for _, row := range []struct {
		send         string
		wantA, wantB string
	}{
		{`42["to-room","r","e",1]`, `42["e",1]`, `42["e",1]`},
		{`42["to-room",["r","s"],"e",2]`, `42["e",2]`, `42["e",2]`},
		{`42["to-others","r","e",3]`, "", `42["e",3]`},
		{`42["to-except","r","s","e",4]`, `42["e",4]`, ""},
		{`42["broadcast","e",5]`, "", `42["e",5]`},
		{`42["all","e",6]`, `42["e",6]`, `42["e",6]`},
		{`42["to-room","` + idA + `","e",7]`, `42["e",7]`, ""},
		{`42["all","disconnect"]`, "", ""}, // a reserved name goes nowhere, and harms nobody
		// No room of a client's is everyone.
		{`42["to-room","","e",8]`, "", ""},
		{`42["to-room",["r",""],"e",9]`, "", ""},
		{`42["to-room",null,"e",10]`, "", ""},
		{`42["to-others","","e",11]`, "", ""},
		{`42["to-except",null,"s","e",12]`, "", ""},
		{`42["cluster-disconnect","",true]`, "", ""},
	} {
		a.Send(row.send)
		for _, side := range []struct {
			c    *exampletest.Client
			want string
		}{{a, row.wantA}, {b, row.wantB}} {
			if side.want != "" {
				side.c.Want(side.want)
			}
		}
	}
	for _, c := range []*exampletest.Client{a, b} { // nothing else has come
		c.Send(`42["echo"]`)
		c.Want(`42["echo-back"]`)
	}
}

// TestNoMistakeOfAClientIsAnErrorOfTheServer: what a client may choose and cannot have is not logged.
func TestNoMistakeOfAClientIsAnErrorOfTheServer(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer // complete once the program has ended
	printed, stop := exampletest.Start(t, func(ctx context.Context, args []string, stdout, _ io.Writer) error {
		return runAtOnce(ctx, args, stdout, &log)
	}, "-addr", "127.0.0.1:0")
	c, _ := connect(t, "http://"+strings.TrimPrefix(strings.TrimSpace(printed), "listening on "))
	rooms := make([]string, 256+1)
	for i := range rooms {
		rooms[i] = fmt.Sprint("room", i)
	}
	for _, event := range []string{
		`["all","disconnect"]`, `["broadcast","connect"]`, `["volatile","connect_error"]`, `["to-room","r","newListener",1]`,
		`["to-others","r","disconnecting"]`, `["to-except","r","s","removeListener"]`, `["to-room",` + exampletest.JSON(rooms) + `,"e"]`,
		`["to-room"]`, `["to-room",{},"e"]`, `["all",1]`, `["big","x"]`, `["big",` + strings.Repeat("9", 1000) + `]`, `["many",null]`,
		`["cluster-disconnect","r","x"]`, `["bye",{}]`, `["join",[]]`, `["leave",""]`, `["nobody listens"]`,
	} {
		c.Send("42" + event)
		c.Send(`42["echo"]`)
		for {
			if got := c.Next(); got == `42["echo-back"]` {
				break
			}
		}
	}
	stop()
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") || strings.Contains(line, "returned") {
			t.Errorf("logged: %.300s", line)
		}
	}
	if !strings.Contains(log.String(), "broker answers") {
		t.Errorf("the log is not what it was taken for: %.300s", log.String())
	}
}

func TestByeAndDrop(t *testing.T) {
	base := start(t)
	c, _ := connect(t, base)
	c.Send(`42["bye",false]`)
	c.Want("41")
	c.Send("40/custom,")
	c.Want(`40/custom,{"sid":"…`, `42/custom,["hello","custom"]`)

	c, _ = connect(t, base)
	c.Send(`42["bye",true]`)
	c.Want("41", "1")

	c, _ = connect(t, base)
	c.Send(`42["drop"]`)
	c.Want("1")
}

func TestAUserIsDisconnectedEverywhere(t *testing.T) {
	base := start(t)
	a, _ := connect(t, base)
	b, _ := connect(t, base)
	b.Send(`421["join","r"]`)
	b.Want(`431["ok"]`)
	a.Send(`42["cluster-disconnect","r",true]`)
	b.Want("41", "1")
}

func TestNamespaces(t *testing.T) {
	c, _ := connect(t, start(t))
	for send, wants := range map[string][]string{
		`40/custom,`:                   {`40/custom,{"sid":"…`, `42/custom,["hello","custom"]`},
		`40/auth,`:                     {`44/auth,{"message":"not authorized","data":{"code":401}}`},
		`40/auth,{"token":"secre"}`:    {`44/auth,{"message":"not authorized","data":{"code":401}}`},
		`40/auth,{"token":["secret"]}`: {`44/auth,{"message":"not authorized","data":{"code":401}}`},
		`40/dyn-42,`:                   {`40/dyn-42,{"sid":"…`, `42/dyn-42,["nsp","/dyn-42"]`},
		`40/dyn-x,`:                    {`44/dyn-x,{"message":"Invalid namespace"}`},
		`40/dyn-1x,`:                   {`44/dyn-1x,{"message":"Invalid namespace"}`},
		`40/nope,`:                     {`44/nope,{"message":"Invalid namespace"}`},
		`42["echo"]`:                   {`42["echo-back"]`},
	} {
		c.Send(send)
		c.Want(wants...)
	}
	c.Send(`40/auth,{"token":"secret"}`)
	c.Want(`40/auth,{"sid":"…`, `42/auth,["whoami","secret"]`)
	c.Send(`42/custom,["echo",1]`)
	c.Want(`42/custom,["echo-back",1]`)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	text := token.GenerateKey()
	key, err := token.NewKey(text)
	if err != nil {
		t.Fatal(err)
	}
	base := start(t, "-token-key", text)
	for _, id := range []any{"42", 42} {
		tok, err := token.NewKeyring(key).Seal(id)
		if err != nil {
			t.Fatal(err)
		}
		c := exampletest.Connect(t, base, exampletest.JSON(map[string]string{"token": tok}))
		c.Want(`40{"sid":"…`, `42["/ops/connection-success",{"message":"Successfully connected"}]`, `42["welcome",…`)
		if status, body := exampletest.Post(t, base+"/emit", `{"user":"42","event":"/users/ping","args":[{"hello":"world"}]}`); status != 200 || body != `{"nodes":1}` {
			t.Errorf("emit: %d %s", status, body)
		}
		c.Want(`42["/users/ping",{"hello":"world"}]`)
		c.Send("1")
	}
	for _, auth := range []string{`{"token":"x"}`, `{"token":""}`, `{"token":42}`, `{"token":{}}`} {
		exampletest.Connect(t, base, auth).Want(`44{"message":"unauthorized"}`)
	}
	for _, auth := range []string{"", "{}", `{"token":null}`} {
		exampletest.Connect(t, base, auth).Want(`40{"sid":"…`, `42["welcome",…`)
	}
}

func TestTheEndpointForEmitting(t *testing.T) {
	base := start(t)
	c, _ := connect(t, base)
	c.Send(`421["join","r"]`)
	c.Want(`431["ok"]`)
	c.Send("40/custom,")
	c.Want(`40/custom,{"sid":"…`, `42/custom,["hello","custom"]`)
	for body, want := range map[string]string{
		`{"user":"nobody","event":"e","args":[1]}`:       `200 {"nodes":0}`,
		`{"room":"r","event":"e","args":[1.0,"é"]}`:      `200 {"nodes":1}`,
		`{"room":"r","event":"e","namespace":"/custom"}`: `200 {"nodes":0}`,
	} {
		if status, got := exampletest.Post(t, base+"/emit", body); fmt.Sprint(status, " ", got) != want {
			t.Errorf("%s: %d %s, want %s", body, status, got, want)
		}
	}
	c.Want(`42["e",1.0,"é"]`)

	for _, body := range []string{
		``, `x`, `[]`, `{}`, `null`, `{"event":"e"}`, `{"user":"1"}`, `{"user":"","event":"e"}`, `{"user":1,"event":"e"}`,
		`{"user":"1","room":"r","event":"e"}`, `{"user":"1","event":""}`, `{"user":"1","event":"connect"}`,
		`{"user":"1","event":"e","args":{}}`, `{"user":"1","event":"e","more":1}`, `{"user":"1","event":"e"}{}`,
		`{"user":"1","event":"e"} x`, `{"user":"1","event":"e","namespace":"/a,b"}`, "{\"user\":\"\xff\",\"event\":\"e\"}", `{"user`,
	} {
		var failed struct {
			Error string `json:"error"`
		}
		status, text := exampletest.Post(t, base+"/emit", body)
		if status != http.StatusBadRequest || json.Unmarshal([]byte(text), &failed) != nil || failed.Error == "" ||
			strings.Contains(text, "struct") || strings.Contains(text, "EOF") {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	large := `{"user":"1","event":"e","args":["` + strings.Repeat("x", 1<<20) + `"]}`
	if status, _ := exampletest.Post(t, base+"/emit", large); status != http.StatusBadRequest {
		t.Errorf("a large body: %d", status)
	}
	if status, _ := exampletest.Get(t, base+"/emit"); status != http.StatusMethodNotAllowed {
		t.Errorf("GET /emit: %d", status)
	}
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-max-payload", "0"}, {"-ping-interval", "-1s"}, {"-ping-timeout", "0"}, {"-connect-timeout", "0s"},
		{"-cors", "not a url"}, {"-cors", "http://localhost/path"}, {"more"},
	} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestHealthAndReadiness(t *testing.T) {
	base := start(t)
	if status, body := exampletest.Get(t, base+"/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d %s", status, body)
	}
	for limit := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // it listens before it knows all
		status, body := exampletest.Get(t, base+"/readyz")
		if status == http.StatusOK {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("readyz: %d %s", status, body)
		}
	}
}

func TestSuite(t *testing.T) {
	base := start(t, "-suite", "-ping-interval", "25s", "-ping-timeout", "20s")
	c := exampletest.Connect(t, base, `{"a":1}`)
	c.Want(`40{"sid":"…`, `42["auth",{"a":1}]`)
	c.Send(`42["message",1,"2"]`)
	c.Want(`42["message-back",1,"2"]`)
	c.Send(`423["message-with-ack",1,"2"]`)
	c.Want(`433[1,"2"]`)
	c.Send(`40/custom,`)
	c.Want(`40/custom,{"sid":"…`, `42/custom,["auth",{}]`)
	c.Send(`40/auth,`)
	c.Want(`44/auth,{"message":"Invalid namespace"}`)
}

// end ends the session that an open packet is about, so that the server's drain need not wait for it.
func end(t *testing.T, path, open string) {
	t.Helper()
	var session struct {
		SID string `json:"sid"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(open, "0")), &session); err != nil {
		t.Fatal(err)
	}
	exampletest.Post(t, path+"?EIO=4&transport=polling&sid="+session.SID, "1")
}

func TestSuiteTimings(t *testing.T) {
	base := start(t, "-suite")
	status, body := exampletest.Get(t, base+"/socket.io/?EIO=4&transport=polling")
	defer end(t, base+"/socket.io/", body)
	if status != http.StatusOK || !strings.HasSuffix(body, `"pingInterval":300,"pingTimeout":200,"maxPayload":1000000}`) {
		t.Errorf("handshake: %d %s", status, body)
	}
}

func TestTimingsAreThoseOfTheFlags(t *testing.T) {
	base := start(t, "-ping-interval", "3s", "-ping-timeout", "2s", "-max-payload", "5000")
	status, body := exampletest.Get(t, base+"/socket.io/?EIO=4&transport=polling")
	defer end(t, base+"/socket.io/", body)
	if status != http.StatusOK || !strings.HasSuffix(body, `"pingInterval":3000,"pingTimeout":2000,"maxPayload":5000}`) {
		t.Errorf("handshake: %d %s", status, body)
	}
}

func TestEngineSendsEveryMessageBack(t *testing.T) {
	base := start(t, "-engine", "-ping-interval", "25s", "-ping-timeout", "20s")
	status, body := exampletest.Get(t, base+"/engine.io/?EIO=4&transport=polling")
	var open struct {
		SID string `json:"sid"`
	}
	if status != http.StatusOK || json.Unmarshal([]byte(strings.TrimPrefix(body, "0")), &open) != nil {
		t.Fatalf("handshake: %d %s", status, body)
	}
	session := base + "/engine.io/?EIO=4&transport=polling&sid=" + open.SID
	if status, body := exampletest.Post(t, session, "4hello\x1ebAQID\x1e4"); status != http.StatusOK {
		t.Fatalf("post: %d %s", status, body)
	}
	var got []string
	for len(got) < 3 {
		_, body := exampletest.Get(t, session)
		for packet := range strings.SplitSeq(body, "\x1e") {
			if packet == "2" {
				exampletest.Post(t, session, "3")
			} else {
				got = append(got, packet)
			}
		}
	}
	if want := "[4hello bAQID 4]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if status, _ := exampletest.Get(t, base+"/socket.io/?EIO=4&transport=polling"); status != http.StatusNotFound {
		t.Errorf("/socket.io/: %d, want 404", status)
	}
	exampletest.Post(t, session, "1")
}

func TestOrigins(t *testing.T) {
	for _, row := range []struct {
		cors, origin string
		want         int
	}{
		{"", "", 200}, {"", "https://a.example", 403}, {"https://a.example", "https://a.example", 200},
		{"https://a.example", "https://b.example", 403}, {"*", "https://b.example", 200},
	} {
		base := start(t, "-cors", row.cors)
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/socket.io/?EIO=4&transport=polling", nil)
		if row.origin != "" {
			r.Header.Set("Origin", row.origin)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			end(t, base+"/socket.io/", string(body))
		}
		if answer.StatusCode != row.want {
			t.Errorf("-cors %q, Origin %q: %d, want %d", row.cors, row.origin, answer.StatusCode, row.want)
		}
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	for _, args := range [][]string{
		{"-nope"}, {"more"}, {"-token-key", "x"}, {"-broker", "redos://x"}, {"-addr", "nowhere"}, {"-recovery-log"},
		{"-recovery", "1m", "-recovery-log", "-broker", "memory://?log=1m"}, // which is too short
	} {
		if err := run(t.Context(), append([]string{"-addr", "127.0.0.1:0"}, args...), t.Output(), t.Output()); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// parked is how many sessions wait for their clients on a server.
func parked(t *testing.T, base string) int {
	t.Helper()
	var s struct{ Parked int }
	if _, text := exampletest.Get(t, base+"/stats"); json.Unmarshal([]byte(text), &s) != nil {
		t.Fatalf("stats: %s", text)
	}
	return s.Parked
}

func awaitParked(t *testing.T, base string, n int) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); parked(t, base) != n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d sessions wait, want %d", parked(t, base), n)
		}
	}
}

func TestAClientComesBack(t *testing.T) {
	base := start(t, "-recovery", "1m")
	c := exampletest.Connect(t, base, "")
	var session struct{ SID, PID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(c.Next(), "40")), &session); err != nil || session.PID == "" {
		t.Fatalf("%v, %+v", err, session)
	}
	c.Next() // the welcome, with the position as one more argument
	if n := parked(t, base); n != 0 {
		t.Errorf("%d sessions wait", n)
	}
	c.Emit("drop")
	c.Want("1")
	awaitParked(t, base, 1)
	c = exampletest.Connect(t, base, fmt.Sprintf(`{"pid":%q}`, session.PID))
	c.Want(fmt.Sprintf(`40{"sid":%q,"pid":%q}`, session.SID, session.PID), `42["welcome",…`) // it had none, as far as it says
	c.Emit("echo", "x")
	c.Want(`42["echo-back","x",…`)
}
