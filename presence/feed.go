package presence

import (
	"context"
	"sort"
	"time"

	"tether/cluster"
	"tether/internal/wire"
)

// feed is a node that watches.
type feed struct {
	stay   *stay
	to     string    // its tag
	sent   uint64    // changes up to this number it has
	busy   bool      // it is being told the whole
	asks   int       // how often it has asked for the whole
	probe  bool      // it says that it does not watch any more: it is asked
	lost   time.Time // since when it is not on the list; zero: it is
	queued bool
}

func (f *feed) inQueue() *bool { return &f.queued }

func (f *feed) behind() bool { return !f.busy && (f.probe || f.sent < f.stay.last()) }

func (p *Presence) routeFeed(f *feed) string {
	if p.view == nil || f.stay.feeds[f.to] != f || !f.behind() {
		return ""
	}
	if _, there := p.view.nodes[f.to]; !there {
		return ""
	}
	return f.to
}

// changesLocked is what a feed has not got, of changes up to a number, in about so many bytes, and whether there is
// more.
func (f *feed) changesLocked(limit uint64, room int) (x excerpt, more bool) {
	st := f.stay
	x = excerpt{key: st.key, after: max(f.sent, st.floor)}
	x.upto = x.after
	size := len(st.key) + 24
	places := make(map[string]int)
	for _, e := range st.log[sort.Search(len(st.log), func(i int) bool { return st.log[i].number > x.after }):] {
		if e.number > limit {
			break
		}
		if size >= room {
			return x, true
		}
		x.upto = e.number
		n := shown{name: e.name, state: stateLeft}
		if e.ended {
			n.state = stateEnded
		}
		if s, here := st.now(e.name); here {
			n.state, n.seen = stateHere, s
		}
		if i, twice := places[e.name]; twice {
			x.names[i] = n
			continue
		}
		places[e.name] = len(x.names)
		x.names = append(x.names, n)
		size += n.size()
	}
	return x, false
}

// What a node answers of each excerpt.
const (
	fedTaken   byte = iota // it has it, or will ask for the whole
	fedUnasked             // nobody there watches the room
)

// excerptTo is an excerpt on its way.
type excerptTo struct {
	feed *feed
	upto uint64
	asks int // how often the node had asked by then
	more bool
}

// sendFeeds tells a node what has changed up to now. It returns those that have to be told again.
func (p *Presence) sendFeeds(ctx context.Context, to string, list []*feed) (again []*feed) {
	p.mu.Lock()
	limit := p.noted
	p.mu.Unlock()
	for len(list) > 0 {
		body := wire.AppendText([]byte{wireVersion}, p.tag)
		var sent []excerptTo
		p.mu.Lock()
		for _, f := range list {
			if len(body) >= batchBytes {
				break
			}
			x, more := f.changesLocked(limit, batchBytes-len(body))
			body = x.append(body)
			sent = append(sent, excerptTo{f, x.upto, f.asks, more})
		}
		p.mu.Unlock()
		answer := p.feed(ctx, to, body)
		if len(answer) != len(sent) {
			return list
		}
		list = list[len(sent):]
		p.mu.Lock()
		for i, x := range sent {
			f := x.feed
			f.sent, f.probe = max(f.sent, x.upto), false
			if answer[i] == fedUnasked && x.asks == f.asks { // else it has asked since
				p.unfeedLocked(f)
			} else if x.more {
				list = append(list, f)
			}
			f.stay.trim()
		}
		p.mu.Unlock()
	}
	return nil
}

// unfeedLocked ends a feed.
func (p *Presence) unfeedLocked(f *feed) {
	if f.stay.feeds[f.to] == f {
		delete(f.stay.feeds, f.to)
		f.stay.trim()
		p.dropStayLocked(f.stay)
	}
}

// feed puts excerpts to a node, which may be this one.
func (p *Presence) feed(ctx context.Context, to string, body []byte) (answer []byte) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if to == p.tag {
		answer, _ = p.takeFeeds(body)
		return answer
	}
	asking := p.node.Ask(ctx, cluster.Question{Topic: topicFeed, Body: body, To: to})
	for _, page := range asking.Pages {
		answer = append(answer, page...)
	}
	return answer
}
