package hubtest

import (
	"encoding/json"
	"maps"
)

// session is what the stock client knows of a session that it may come back to: see [hub.Recovery].
type session struct {
	pid       string
	offset    string
	has       bool // an offset
	recovered bool
}

// connected takes the answer to CONNECT.
func (s *session) connected(pid string) {
	s.recovered = pid != "" && pid == s.pid
	s.pid = pid
}

// position takes the place of an event in the session, which is its last argument.
func (s *session) position(args []json.RawMessage) []json.RawMessage {
	last := len(args) - 1
	if s.pid == "" || last < 0 || json.Unmarshal(args[last], &s.offset) != nil {
		return args
	}
	s.has = true
	return args[:last]
}

// ask is auth with what asks for the session. What the application has chosen goes first, as it does there.
func (s *session) ask(auth any) (any, error) {
	all := make(map[string]any)
	if s.pid != "" {
		all["pid"] = s.pid
	}
	if s.has {
		all["offset"] = s.offset
	}
	if auth != nil {
		var own map[string]any
		text, err := json.Marshal(auth)
		if err == nil {
			err = json.Unmarshal(text, &own)
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(all, own)
	}
	return all, nil
}

// ComeBack connects to a node again, as the stock client does when its connection is lost, and reports whether the
// hub has recovered the session: see [hub.Recovery]. What comes then is this client's, as before. A connection that is
// still open is lost without a word first, as that of a phone is that changes its network. It returns when the
// client knows that it is connected, and fails the test if it is refused.
func (c *Client) ComeBack(n *Node) (recovered bool) {
	c.t.Helper()
	c.conn.node.cluster.settle()
	if !c.conn.isLost() {
		c.conn.vanish()
	}
	c.conn.mu.Lock()
	delete(c.conn.clients, c.namespace) // its end is no news any more
	c.conn.mu.Unlock()

	k, err := n.attach(Handshake{})
	if err != nil {
		c.t.Fatalf("hubtest: node %s takes no connection: %v", n.Hub.Node(), err)
	}
	c.conn = k
	c.mu.Lock()
	c.reason = ""
	auth, err := c.session.ask(c.auth)
	c.mu.Unlock()
	if err != nil {
		c.t.Fatalf("hubtest: auth: %v", err)
	}
	c.open(k, auth)
	c.connected()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.recovered
}
