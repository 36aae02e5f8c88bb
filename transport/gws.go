package transport

import (
	"bufio"
	"log/slog"
	"net/http"

	"github.com/lxzan/gws"
)

// library is the WebSocket library's part: unmasking and joining the frames of a portable connection.
// It reads from the connection what [websocket.Read] has checked, and everything it would write is
// left out: what a client gets comes from its session.
type library struct {
	upgrader *gws.Upgrader
	request  *http.Request // what the library is told that clients have asked for; it has been answered
}

func newLibrary(o Options) *library {
	u := gws.NewUpgrader(events{}, &gws.ServerOption{
		ParallelGolimit:    1, // unused, but memory is reserved for it
		ReadMaxPayloadSize: o.MaxPayload,
		ReadBufferSize:     headSize,
		Logger:             libraryLogger{o.Logger},
		Recovery:           func(l gws.Logger) { recoverInto(l, recover()) },
		NewSession:         func() gws.SessionStorage { return nil },
	})
	return &library{u, &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
	}}}
}

// libraryConn is the library's part of a connection.
type libraryConn = gws.Conn

// accept returns what to read from w with.
func (l *library) accept(w *websocket) (*libraryConn, error) {
	return l.upgrader.UpgradeFromConn(w, bufio.NewReaderSize(w, headSize), l.request)
}

// read reads until the connection has nothing more to say.
func (l *library) read(c *libraryConn) {
	c.ReadLoop()
}

// events passes on what the library reads. Its connection is a *websocket.
type events struct{}

func (events) OnOpen(*gws.Conn)         {}
func (events) OnClose(*gws.Conn, error) {}
func (events) OnPong(*gws.Conn, []byte) {}

func (events) OnPing(c *gws.Conn, payload []byte) {
	c.NetConn().(*websocket).pinged(payload)
}

func (events) OnMessage(c *gws.Conn, m *gws.Message) {
	w := c.NetConn().(*websocket)
	if worker := w.received(m.Opcode == gws.OpcodeText, m.Bytes()); worker != nil {
		worker.jobs <- struct{}{}
		w.settled(worker, <-worker.ok)
	}
	m.Close()
}

type libraryLogger struct{ l *slog.Logger }

func (l libraryLogger) Error(v ...any) {
	l.l.Error("transport: WebSocket library", slog.Any("error", v))
}

func recoverInto(l gws.Logger, v any) {
	if v != nil {
		l.Error(v)
	}
}
