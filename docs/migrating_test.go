package docs

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tether/broker"
	"tether/clientjs"
	"tether/event"
	"tether/hub"
	"tether/transport"
)

// Ping is the payload in migrating.md.
type Ping struct {
	Hello string `json:"hello"`
}

// This function has every call in the tables of migrating.md on a line of its own. It is compiled, not
// called.
var _ = func(ctx context.Context, b broker.Broker, h *hub.Hub, s *hub.Socket, m *hub.Message, userID string,
	f func(context.Context, *hub.Socket, *hub.Message) error,
	connect func(context.Context, *hub.Socket) error, ended func(*hub.Socket, hub.Reason), isTenant func(string) bool,
	generate func(*http.Request) (string, error), headers func(http.Header, *http.Request), refused func(transport.ConnectionError), broken func(*hub.Socket, error)) {
	var ping Ping
	emitter := h.Emitter()

	_ = s.Register(ctx, userID)
	emitter.Emit(ctx, hub.User(userID), "/users/ping", ping)
	_ = hub.NewEmitter(b, hub.EmitterOptions{Events: []string{"/users/ping"}})
	_ = event.New[Ping]("/users/ping")
	_ = s.RegisterAs(ctx, hub.Kind("admin-user").User(userID))
	h.Of("/").OnConnect(connect)
	_ = hub.Options{Devices: hub.Devices{Max: 3}}

	h.Of("/").Use(connect)
	h.Of("/admin").OnConnect(connect)
	h.Match(isTenant).OnConnect(connect)
	h.Of("/").On("hello", f)
	h.Of("/").OnAny(f)
	h.Of("/").UseEvent(f)
	h.Of("/").OnDisconnect(ended)
	h.Of("/").OnError(broken)
	_ = hub.Refuse("unauthorized", nil)
	_ = s.Emit("hello", 1, "two", ping)
	_ = s.Volatile().Emit("position", 1, 2)
	s.EmitAck(ctx, "hello", ping)
	_ = m.Ack("ok")
	_ = m.Bind(&ping)
	emitter.Emit(ctx, hub.Everyone, "hello", ping)
	emitter.Emit(ctx, hub.Room("room"), "hello", ping)
	emitter.EmitUnion(ctx, []hub.Target{hub.Room("a"), hub.Room("b")}, "hello")
	emitter.Except(hub.Room("muted")).Emit(ctx, hub.Room("room"), "hello")
	s.Broadcast().Emit(ctx, hub.Room("room"), "hello")
	emitter.Emit(ctx, s.Target(), "hello")
	emitter.Local().Emit(ctx, hub.Room("room"), "hello")
	_ = s.Join(ctx, hub.Room("room"))
	s.Leave(hub.Room("room"))
	_ = s.Rooms()
	_ = s.Handshake().Auth
	s.SetData(ping)
	s.Disconnect(true)
	emitter.Disconnect(ctx, hub.Room("room"), true)
	emitter.FetchSockets(ctx, hub.Room("room"), hub.FetchOptions{})
	emitter.Join(ctx, hub.Room("room"), hub.Room("other"))
	emitter.Leave(ctx, hub.Room("room"), hub.Room("other"))
	emitter.EmitAck(ctx, hub.Room("room"), "hello")
	emitter.ServerSideEmitAck(ctx, "hello")
	for range h.Of("/").Sockets() {
	}
	_ = h.Stats().Connections
	_ = hub.Options{Recovery: hub.Recovery{On: true, All: true}}
	_ = hub.Options{Recovery: hub.Recovery{On: true, Window: 2 * time.Minute}}
	_ = hub.Options{Recovery: hub.Recovery{On: true, Log: true}}
	_ = s.Recovered()
	_ = hub.Options{ConnectTimeout: 45 * time.Second}
	_ = transport.Options{PingInterval: 25 * time.Second, PingTimeout: 20 * time.Second}
	_ = transport.Options{MaxPayload: 1_000_000}
	_ = transport.Options{CORS: transport.CORS{Origins: []string{"https://app.example.com"}}}
	_ = transport.Options{Cookie: transport.Cookie{Name: "io"}}
	_ = transport.Options{Client: clientjs.Handler()}
	_ = transport.Options{CompressPolling: 1024}
	_ = transport.Options{GenerateID: generate}
	_ = transport.Options{OnHandshake: headers, OnHeaders: headers}
	_ = transport.Options{OnConnectionError: refused}
}

var cell = regexp.MustCompile("`([^`]+)`")

func TestTheCallsInMigratingCompile(t *testing.T) {
	page, err := os.ReadFile("migrating.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("migrating_test.go")
	if err != nil {
		t.Fatal(err)
	}
	code := lines(string(source))
	checked := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue // not a row of theirs, ours, remark
		}
		for _, call := range cell.FindAllStringSubmatch(cells[2], -1) {
			checked++
			if !slices.ContainsFunc(code, func(l string) bool { return strings.TrimPrefix(l, "_ = ") == call[1] || l == "for range "+call[1]+" {" }) {
				t.Errorf("no such call: %s", call[1])
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d calls found", checked)
	}
}
