package nats

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	natsio "github.com/nats-io/nats.go"
)

// server is another server, where somebody is or was. Its fields are guarded by cluster.mu.
type server struct {
	present  bool      // somebody is there
	lapsed   bool      // it was not, since it last answered
	left     time.Time // when it last ceased to be
	sent     int64     // stamp of the last mark sent to it
	answered int64     // stamp of the last mark that came back; 0 if none
}

func (s *server) leave() {
	if s.present {
		s.left = time.Now()
	}
	s.present, s.lapsed = false, true
}

// loop answers the others, and reads their answers, until gone.
func (c *cluster) loop(in <-chan *natsio.Msg) {
	for {
		select {
		case m := <-in:
			c.read(m)
		case <-c.gone:
			return
		}
	}
}

func (c *cluster) read(m *natsio.Msg) {
	switch {
	case strings.HasPrefix(m.Subject, c.inbox):
		c.readAnswer(m.Subject[len(c.inbox):], m)
	case m.Subject == c.hello:
		if id, lost, ok := splitHello(m.Data); ok {
			c.heard(id, lost)
		}
	case m.Reply != "" && m.Sub != nil:
		c.answer(m)
	}
}

// answer answers a mark, if it has come through the server whose name the subscription bears: after
// a reconnect nats.go first renews it at another one. It says how long somebody has been there.
func (c *cluster) answer(m *natsio.Msg) {
	c.mu.Lock()
	e, id, eldest := c.epoch, c.here, c.eldest
	c.mu.Unlock()
	if now := c.link.current(); now.n != e.n {
		c.rejoin(now)
		return
	}
	if m.Sub.Queue != id {
		return
	}
	_ = c.conn.Publish(m.Reply, appendHello(nil, id, time.Since(eldest))) // it will be asked again
}

func (c *cluster) readAnswer(tail string, m *natsio.Msg) {
	digits, to, _ := strings.Cut(tail, ".")
	stamp, err := strconv.ParseInt(digits, 36, 64)
	switch {
	case err != nil:
	case to == "_":
		c.returned(stamp)
	case len(m.Data) > 0:
		if id, uptime, ok := splitHello(m.Data); ok {
			c.answered(id, stamp, uptime)
		}
	case m.Header.Get("Status") == "503":
		c.nobodyAt(to, stamp)
	}
}

// returned takes a mark that our own server has returned.
func (c *cluster) returned(stamp int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stamp <= c.last {
		c.own = max(c.own, stamp)
		c.changeLocked()
	}
}

// nobodyAt takes the word of our own server that nobody is at another one.
func (c *cluster) nobodyAt(id string, stamp int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.servers[id]; s != nil && s.answered < stamp {
		s.leave()
		c.changeLocked()
	}
}

// answered takes the answer of a broker at a server where somebody has been for a while. If we have
// not heard from there, though we were here, we missed what was published there.
func (c *cluster) answered(id string, stamp int64, uptime time.Duration) {
	there := time.Now().Add(-uptime)
	c.mu.Lock()
	if id == c.here && there.Before(c.eldest) {
		c.eldest = there
	}
	known := c.servers[id] != nil
	s := c.serverLocked(id)
	if s == nil || stamp > c.last || stamp <= s.answered {
		c.mu.Unlock()
		return
	}
	var since time.Time // the last moment that is known to be good
	switch {
	case c.entered.IsZero():
	case !known:
		since = c.entered
	case s.answered > 0 && (s.lapsed || time.Duration(stamp-s.answered) > lateLoss):
		since = c.time(s.answered)
	}
	s.present, s.lapsed, s.answered = true, false, stamp
	c.changeLocked()
	missed := c.missed
	c.mu.Unlock()
	if since.IsZero() || missed == nil {
		return
	}
	if known && there.Before(since) {
		missed(since, errRoute)
	} else if !known {
		missed(later(since, there), errRoute) // we have not heard its hello
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// heard takes a hello. lost is how long ago its sender may have published what went down with its
// server, or 0.
func (c *cluster) heard(id string, lost time.Duration) {
	c.mu.Lock()
	if s := c.serverLocked(id); s != nil && !s.present {
		s.present = true
		c.changeLocked()
	}
	missed := c.missed
	c.mu.Unlock()
	if lost > 0 && missed != nil {
		missed(time.Now().Add(-lost), errMovedAway)
	}
}

// serverLocked returns what is known of a server, or nil for our own.
func (c *cluster) serverLocked(id string) *server {
	if id == c.here {
		return nil
	}
	s := c.servers[id]
	if s == nil && len(c.servers) < maxServers {
		s = new(server)
		c.servers[id] = s
	}
	return s
}

// trim forgets servers that have long been gone.
func (c *cluster) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.servers {
		if !s.present && time.Since(c.time(max(s.sent, s.answered))) > forgetServer {
			delete(c.servers, id)
		}
	}
}

// tell has missed called, by loop, when messages may have been missed.
func (c *cluster) tell(missed func(since time.Time, cause error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed = missed
}

// appendHello appends a server's ID and a time.
func appendHello(dst []byte, id string, d time.Duration) []byte {
	return fmt.Appendf(dst, "%s %d", id, d.Milliseconds())
}

// splitHello undoes appendHello. It refuses what no server is called: anybody may have sent it.
func splitHello(data []byte) (id string, d time.Duration, ok bool) {
	id, digits, _ := strings.Cut(string(data), " ")
	ms, err := strconv.ParseInt(digits, 10, 40)
	if err != nil || ms < 0 || len(id) == 0 || len(id) > 64 || strings.ContainsAny(id, ".*> \t\r\n") {
		return "", 0, false
	}
	return id, time.Duration(ms) * time.Millisecond, true
}
