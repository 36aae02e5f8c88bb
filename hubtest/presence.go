package hubtest

import (
	"slices"
	"sync"
	"time"

	"tether/hub"
	"tether/presence"
)

// presencePatience is how long a change of presence may take: a new cluster is silent for five seconds, a node
// that has died is off the list after six, and then there is the grace, of ten by default.
const presencePatience = 30 * time.Second

// changes are the changes of presence that no test has taken.
type changes struct {
	mu     sync.Mutex
	events []presence.Event // guarded by mu
	seen   map[string]bool  // guarded by mu; by ID
	news   chan struct{}    // guarded by mu; closed and replaced when there is another one
}

func (c *changes) add(e presence.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[e.ID] {
		return // as a receiver does
	}
	if c.seen == nil {
		c.seen = make(map[string]bool)
	}
	c.seen[e.ID] = true
	c.events = append(c.events, e)
	if c.news != nil {
		close(c.news)
		c.news = nil
	}
}

// take takes the next change of a user's. Without one it returns what is closed when there is another.
func (c *changes) take(user hub.Target) (e presence.Event, ok bool, news chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.events, func(e presence.Event) bool { return e.User == user }); i >= 0 {
		e = c.events[i]
		c.events = slices.Delete(c.events, i, i+1)
		return e, true, nil
	}
	if c.news == nil {
		c.news = make(chan struct{})
	}
	return e, false, c.news
}

// ExpectOnline waits until the next change of the user's is told by one of the nodes, takes it, and fails the test
// unless it is that the user has come online. The nodes' set-up has made a [presence.Presence].
func (c *Cluster) ExpectOnline(user hub.Target) { c.t.Helper(); c.expectPresence(user, true) }

// ExpectOffline is ExpectOnline for a user who has gone.
func (c *Cluster) ExpectOffline(user hub.Target) { c.t.Helper(); c.expectPresence(user, false) }

// RefutePresence fails the test if a change of the user's has been told and was not taken, or is on its way. A
// grace that runs is not waited for: sleep before.
func (c *Cluster) RefutePresence(user hub.Target) {
	c.t.Helper()
	c.settle()
	if e, ok, _ := c.presence.take(user); ok {
		c.t.Fatalf("hubtest: it was told that %v is %s, and was not to be told", user, onlineText(e.Online))
	}
}

func (c *Cluster) expectPresence(user hub.Target, online bool) {
	c.t.Helper()
	timer := time.NewTimer(presencePatience)
	defer timer.Stop()
	for {
		e, ok, news := c.presence.take(user)
		switch {
		case ok && e.Online == online:
			return
		case ok:
			c.t.Fatalf("hubtest: it was told that %v is %s, and %s was expected", user, onlineText(e.Online), onlineText(online))
		}
		select {
		case <-news:
		case <-timer.C:
			c.t.Fatalf("hubtest: nothing was told of %v within %v, and %s was expected", user, presencePatience, onlineText(online))
		}
	}
}

func onlineText(online bool) string {
	if online {
		return "online"
	}
	return "offline"
}
