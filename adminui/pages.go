package adminui

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"tether/hub"
)

// pages are what the pages of this node have been told. They are owned by Run.
type pages struct {
	counts map[string]map[string]uint64 // of nodes, by tag
	from   map[string]uint64            // the next note of nodes, by tag
	view   view
	ends   map[string]string        // reasons of sockets' ends, by ID, from the last round
	told   map[*hub.Socket]pageMode // pages
}

// pageMode is what a page has been told of the list of sockets.
type pageMode int

const (
	nothing pageMode = iota // it is new
	listing
	tooMany
)

// Run implements [cluster.Service]: the hub calls it.
func (u *UI) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	p := pages{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			u.round(ctx, &p)
		}
	}
}

// round tells the pages of this node what is new. Without pages nobody is asked.
func (u *UI) round(ctx context.Context, p *pages) {
	u.putOut()
	open := slices.Collect(u.namespace.Sockets())
	if len(open) == 0 {
		*p = pages{}
		return
	}
	var now view
	over, err := false, error(nil)
	if u.o.Development { // before the notes, so that they tell why sockets are not in the list
		now, over, err = u.list(ctx, p.view)
	}
	answers := u.ask(ctx, p.from)
	p.tell(open, answers)
	if u.o.Development && err == nil { // what is not known does not change
		u.tellSockets(p, open, now, over, answers)
	}
	p.from = make(map[string]uint64, len(answers))
	for _, a := range answers {
		p.from[a.Tag] = a.Next
	}
}

// tell tells how the nodes are.
func (p *pages) tell(open []*hub.Socket, answers []answered) {
	at, counts := time.Now(), make(map[string]map[string]uint64, len(answers))
	for _, a := range answers {
		send(open, message{"server_stats", []any{a.stats(p.counts[a.Tag], at)}})
		counts[a.Tag] = a.Counts
	}
	p.counts = counts
}

// tellSockets tells pages that list sockets what has changed, and others all.
func (u *UI) tellSockets(p *pages, open []*hub.Socket, now view, over bool, answers []answered) {
	var events []note
	ends := map[string]string{}
	for _, a := range answers {
		for _, n := range a.Notes {
			if n.What == "socket_disconnected" {
				ends[n.Socket] = n.Text
			} else {
				events = append(events, n)
			}
		}
	}
	changes, small := changesOf(p.view, now, func(id string) string { return cmp.Or(ends[id], p.ends[id], "unknown") })
	changes = append(changes, messagesOf(events)...)
	told := make(map[*hub.Socket]pageMode, len(open))
	for _, s := range open {
		mode := listing
		if over {
			mode = tooMany
		}
		told[s] = mode
		one := []*hub.Socket{s}
		if mode != p.told[s] {
			send(one, message{"config", []any{u.config(!over)}})
		}
		switch {
		case over:
		case p.told[s] != listing || !small:
			send(one, message{"all_sockets", []any{now.all()}})
		default:
			send(one, changes...)
		}
	}
	p.view, p.ends, p.told = now, ends, told
}

// message is an event to pages.
type message struct {
	event string
	args  []any
}

// send does not wait for pages. One that has closed meanwhile is not there any more in the next round.
func send(to []*hub.Socket, messages ...message) {
	for _, s := range to {
		for _, m := range messages {
			_ = s.Emit(m.event, m.args...)
		}
	}
}

// timeOf is a time as JavaScript sends it.
func timeOf(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// messagesOf are the latest events of all nodes.
func messagesOf(events []note) []message {
	slices.SortStableFunc(events, func(a, b note) int { return a.At.Compare(b.At) })
	events = events[max(0, len(events)-maxEvents):]
	out := make([]message, len(events))
	for i, n := range events {
		out[i] = message{n.What, []any{n.Namespace, n.Socket, []string{n.Text}, timeOf(n.At)}}
	}
	return out
}

// listed is a socket as pages want it.
type listed struct {
	ID        string         `json:"id"`
	Client    string         `json:"clientId"`
	Transport string         `json:"transport"`
	Namespace string         `json:"nsp"`
	Data      struct{}       `json:"data"` // stays on its node
	Handshake map[string]any `json:"handshake"`
	Rooms     []string       `json:"rooms"`

	node string // its tag
	size int
}

// view are the sockets of the cluster, by ID.
type view map[string]*listed

const (
	maxRooms   = 100       // of a socket, that pages are told of
	maxName    = 256       // bytes of the name of a room that is told
	maxBytes   = 512 << 10 // of all sockets: half of what may wait for a page
	maxChanges = 1000      // at a time; all is told anew beyond it
	maxEvents  = 500       // at a time
)

// list asks for all sockets. Those of a node that has not answered stay as they were. It reports over if there are too many.
func (u *UI) list(ctx context.Context, before view) (now view, over bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	now, size := view{}, 0
	add := func(l *listed) bool {
		if now[l.ID] == nil {
			now[l.ID], size = l, size+l.size
		}
		return len(now) <= u.o.MaxSockets && size <= maxBytes
	}
	for _, name := range u.all() {
		found := u.emitter.In(name).FetchSockets(ctx, hub.Everyone, hub.FetchOptions{Rooms: true, Handshake: true})
		for s := range found.All {
			if !add(listedOf(s)) {
				return nil, true, nil
			}
		}
		if err := found.Err(); err != nil {
			return nil, false, err
		}
		for _, m := range found.Missing() {
			for _, l := range before {
				if l.Namespace == name && (m.Node.Tag == "" || m.Node.Tag == l.node) && !add(l) {
					return nil, true, nil
				}
			}
		}
	}
	return now, false, nil
}

func listedOf(s hub.RemoteSocket) *listed {
	l := &listed{ID: s.ID, Client: s.Connection, Transport: s.Transport, Namespace: s.Namespace, Rooms: []string{}, node: s.Node.Tag}
	for _, r := range s.Rooms {
		if name := nameOf(r); len(l.Rooms) < maxRooms && len(name) <= maxName {
			l.Rooms = append(l.Rooms, name)
		}
	}
	l.Handshake = map[string]any{"headers": struct{}{}, "query": struct{}{}, "xdomain": false, "url": ""}
	if h := s.Handshake; h != nil {
		l.Handshake["address"], l.Handshake["secure"] = h.Address, h.Secure
		l.Handshake["issued"], l.Handshake["time"] = h.Time.UnixMilli(), h.Time.UTC().Format(time.RFC1123)
	}
	text, _ := json.Marshal(l) // texts and numbers
	l.size = len(text)
	return l
}

func (v view) all() []*listed {
	out := make([]*listed, 0, len(v))
	for _, l := range v {
		out = append(out, l)
	}
	return out
}

// changesOf are what makes now of before. They are not small if to tell all anew is less.
func changesOf(before, now view, why func(id string) string) (changes []message, small bool) {
	at := timeOf(time.Now())
	rooms := func(event string, l *listed, of, but []string) {
		for _, name := range of {
			if !slices.Contains(but, name) {
				changes = append(changes, message{event, []any{l.Namespace, name, l.ID, at}})
			}
		}
	}
	for id, was := range before {
		if now[id] == nil {
			rooms("room_left", was, was.Rooms, nil)
			changes = append(changes, message{"socket_disconnected", []any{was.Namespace, id, why(id), at}})
		}
	}
	for id, is := range now {
		was := before[id]
		if was == nil {
			changes = append(changes, message{"socket_connected", []any{is, at}})
			continue
		}
		if is.Transport != was.Transport {
			changes = append(changes, message{"socket_updated", []any{map[string]string{"id": id, "nsp": is.Namespace, "transport": is.Transport}}})
		}
		rooms("room_joined", is, is.Rooms, was.Rooms)
		rooms("room_left", is, was.Rooms, is.Rooms)
	}
	return changes, len(changes) <= maxChanges
}
