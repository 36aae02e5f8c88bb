package transport

import (
	"regexp"
	"testing"

	"tether/engine"
)

func TestAWebSocketClientGetsItsMessagesBack(t *testing.T) {
	s := serve(t, Options{})
	c := s.upgrade("EIO=4&transport=websocket", "")
	open := c.text()
	if !regexp.MustCompile(`^0\{"sid":"[A-Za-z0-9_-]{20}","upgrades":\[\],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000\}$`).MatchString(open) {
		t.Fatalf("open packet %q", open)
	}
	c.send("4hello")
	c.wantText("4hello")
	c.write(clientFrame(bitFin|opBinary, []byte{1, 2, 3}))
	if first, p, err := c.frame(); first != bitFin|opBinary || string(p) != "\x01\x02\x03" || err != nil {
		t.Fatalf("got %#x %q %v", first, p, err)
	}
	c.write(clientFrame(bitFin|opClose, nil))
	c.wantClose(0)
	if got := receive(t, s.session().closed); got != engine.ReasonTransportClose {
		t.Fatalf("closed for %q, want %q", got, engine.ReasonTransportClose)
	}
}

func TestAPollingClientGetsItsMessagesBack(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	if status, body := c.post("4hello\x1ebAQID"); status != 200 || body != "ok" {
		t.Fatalf("got %d %q, want ok", status, body)
	}
	c.want("4hello\x1ebAQID")
	c.post("1")
	c.wantEnd()
	if got := receive(t, s.session().closed); got != engine.ReasonTransportClose {
		t.Fatalf("closed for %q, want %q", got, engine.ReasonTransportClose)
	}
}

func TestAClientUpgrades(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	get := background(t, func() string { _, b := c.get(); return b })
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.send("2probe")
	ws.wantText("3probe")
	if got := get(); got != "6" {
		t.Fatalf("the open GET got %q, want 6", got)
	}
	e := s.session()
	if err := e.c.Send(engine.NewPacket(engine.Terms{}, []byte("4between")), nil); err != nil {
		t.Fatal(err)
	}
	ws.send("5")
	ws.wantText("4between")
	ws.send("4after")
	ws.wantText("4after")
	if status, body := c.get(); status != 400 || body != `{"code":3,"message":"Bad request"}` {
		t.Fatalf("polling after the upgrade got %d %q", status, body)
	}
	if got := e.c.Transport(); got != WebSocket {
		t.Fatalf("transport %q", got)
	}
}
