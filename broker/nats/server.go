package nats

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	natsio "github.com/nats-io/nats.go"
)

const (
	forgetServer = 5 * time.Minute // after its last answer
	maxServers   = 1024
)

// place is where a broker is connected.
type place struct {
	id      string // of the server
	cluster string // clusterTag of its name
}

// listens is how long at least a broker that comes there listens for others.
func (p place) listens() time.Duration {
	if p.cluster == "" {
		return listenTimeAlone
	}
	return listenTime
}

// server is another server, where somebody is or was. Its fields are guarded by cluster.mu.
type server struct {
	present  bool  // somebody is there
	lapsed   bool  // it was not, since it last answered
	asked    int64 // stamp of the last question
	answered int64 // stamp of the last question that was answered; 0 if none
}

func (s *server) leave() { s.present, s.lapsed = false, true }

// read takes what is published to all of us, or to one at our server.
func (c *cluster) read(m *natsio.Msg) {
	who, lost, ok := splitHello(m.Data)
	switch {
	case m.Subject == c.hello && ok:
		c.heard(who, lost)
	case m.Reply != "" && m.Sub != nil:
		if ok {
			c.heard(who, 0)
		}
		c.answer(m)
	}
}

// answer answers a question, if it has come through the server whose ID the subscription bears: after
// a reconnect nats.go first renews it at another one. It says how long somebody has been there.
func (c *cluster) answer(m *natsio.Msg) {
	c.mu.Lock()
	e, here, eldest := c.epoch, c.here, c.eldest
	c.mu.Unlock()
	if c.link.current().n != e.n || m.Sub.Queue != here.id {
		return // we are about to join
	}
	_ = c.conn.Publish(m.Reply, appendHello(nil, here, time.Since(eldest))) // it will be asked again
}

// readAnswer takes what has come back to a question, by what its reply subject ends with.
func (c *cluster) readAnswer(tail string, m *natsio.Msg) {
	digits, to, _ := strings.Cut(tail, ".")
	stamp, err := strconv.ParseInt(digits, 36, 64)
	if err != nil {
		return
	}
	if who, uptime, ok := splitHello(m.Data); ok {
		c.answered(who, stamp, uptime)
	} else if m.Header.Get("Status") == "503" {
		c.nobodyAt(to, stamp)
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
func (c *cluster) answered(who place, stamp int64, uptime time.Duration) {
	now := time.Now()
	there := now.Add(-uptime)
	c.mu.Lock()
	if who.id == c.here.id && there.Before(c.eldest) {
		c.eldest = there
	}
	known := c.servers[who.id] != nil
	s := c.serverLocked(who)
	if s == nil || stamp > c.last || stamp <= s.answered {
		c.mu.Unlock()
		return
	}
	asked := c.time(stamp)
	came := asked.Add(-uptime) // or a little later
	// If both were there, and the way there and back takes longer than they listened, neither counted the other in.
	unheard := s.answered == 0 && came.Before(c.entered) && now.Sub(asked) > min(c.here.listens(), who.listens())
	var since time.Time // the last moment that is known to be good
	switch {
	case c.entered.IsZero():
	case unheard || !known:
		since = later(c.entered, came)
	case s.answered > 0 && (s.lapsed || time.Duration(stamp-s.answered) > lateLoss) && there.Before(c.time(s.answered)):
		since = c.time(s.answered)
	}
	s.present, s.lapsed, s.answered = true, false, stamp
	here, missed, lost := c.here, c.missed, time.Duration(0)
	if wrote := c.wrote.Load(); unheard && wrote > 0 && c.time(wrote).After(c.epoch.since) {
		lost = now.Sub(c.epoch.since) + now.Sub(asked)
	}
	c.changeLocked()
	c.mu.Unlock()
	c.warn()
	if lost > 0 {
		_ = c.conn.Publish(c.hello, appendHello(nil, here, lost)) // fails with the connection, whose end makes a gap
	}
	if !since.IsZero() && missed != nil {
		missed(since, errRoute)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// heard takes a hello. lost is how long ago its sender may have published what did not get to other servers: it
// went down with its own, or they had not heard of each other. It is 0 if there is nothing.
func (c *cluster) heard(who place, lost time.Duration) {
	c.mu.Lock()
	if s := c.serverLocked(who); s != nil && !s.present {
		s.present = true
		c.changeLocked()
	}
	missed := c.missed
	c.mu.Unlock()
	c.warn()
	if lost > 0 && missed != nil {
		missed(time.Now().Add(-lost), errPublisher)
	}
}

// warn says once that a promise cannot be kept.
func (c *cluster) warn() {
	if c.foreign.Load() && c.warned.CompareAndSwap(false, true) {
		c.log.Warn("nats: brokers of this prefix are in more than one cluster: receipts say unknown instead of nobody, " +
			"and what is emitted in another cluster just after a client has connected may not reach it")
	}
}

// serverLocked returns what is known of a server, or nil for our own.
func (c *cluster) serverLocked(who place) *server {
	if who.id == c.here.id || c.here.id == "" {
		return nil
	}
	if who.cluster != "" && c.here.cluster != "" && who.cluster != c.here.cluster {
		c.foreign.Store(true)
	}
	s := c.servers[who.id]
	if s == nil && len(c.servers) < maxServers {
		s = new(server)
		c.servers[who.id] = s
	}
	return s
}

// trim forgets servers that have long been gone.
func (c *cluster) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, s := range c.servers {
		if !s.present && time.Since(c.time(max(s.asked, s.answered))) > forgetServer {
			delete(c.servers, id)
		}
	}
}

// tell has missed called when messages may have been missed.
func (c *cluster) tell(missed func(since time.Time, cause error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed = missed
}

// clusterTag returns a word that stands for the name of a cluster, which may be any text; empty if it is.
func clusterTag(name string) string {
	if name == "" {
		return ""
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	return strconv.FormatUint(h.Sum64(), 36)
}

// appendHello appends a place and a time.
func appendHello(dst []byte, p place, d time.Duration) []byte {
	return fmt.Appendf(dst, "%s %d %s", p.id, d.Milliseconds(), p.cluster)
}

// splitHello undoes appendHello. It refuses what no server is called: anybody may have sent it.
func splitHello(data []byte) (p place, d time.Duration, ok bool) {
	if len(data) > 128 {
		return place{}, 0, false
	}
	id, rest, _ := strings.Cut(string(data), " ")
	digits, tag, _ := strings.Cut(rest, " ")
	ms, err := strconv.ParseInt(digits, 10, 40)
	if err != nil || ms < 0 || len(id) == 0 || len(id) > 64 || strings.ContainsAny(id+tag, ".*> \t\r\n") {
		return place{}, 0, false
	}
	return place{id, tag}, time.Duration(ms) * time.Millisecond, true
}
