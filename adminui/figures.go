package adminui

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"tether/cluster"
	"tether/hub"
)

// askFigures is the question to all nodes. Its argument says from which note on each of them is to tell what it has noted,
// by tag; a node that is not named tells no notes.
const askFigures = "tether:adminui"

// answerTime is how long nodes may take to answer.
const answerTime = 1500 * time.Millisecond

// figures are what a node says of itself.
type figures struct {
	Hostname   string            `json:"hostname"`
	PID        int               `json:"pid"`
	Uptime     float64           `json:"uptime"` // seconds
	Clients    int               `json:"clients"`
	Polling    int               `json:"polling"`
	Namespaces []sockets         `json:"namespaces"`
	Counts     map[string]uint64 `json:"counts"` // since the start, by what pages call them
	Notes      []note            `json:"notes,omitempty"`
	Next       uint64            `json:"next"` // note
}

// sockets are how many a namespace has on a node.
type sockets struct {
	Name  string `json:"name"`
	Count int    `json:"socketsCount"`
}

// answer answers another node.
func (u *UI) answer(_ context.Context, m *hub.Message) (any, error) {
	var from map[string]uint64
	if err := m.Bind(&from); err != nil {
		return nil, err
	}
	return u.figures(from), nil
}

// figures are this node's.
func (u *UI) figures(from map[string]uint64) figures {
	s := u.hub.Stats()
	f := figures{
		Hostname: u.hostname, PID: os.Getpid(), Uptime: time.Since(u.started).Seconds(), Clients: s.Connections,
		Counts: map[string]uint64{"packetsIn": s.Events + s.Acks, "packetsOut": s.Delivered},
	}
	if u.o.Engine != nil {
		e := u.o.Engine()
		f.Counts["rawConnection"], f.Counts["rawDisconnection"] = e.Opened, e.Closed
		f.Counts["bytesIn"], f.Counts["bytesOut"] = e.BytesIn, e.BytesOut
	}
	for _, name := range u.all() {
		n := u.hub.Of(name)
		f.Namespaces = append(f.Namespaces, sockets{name, n.Len()})
		for socket := range n.Sockets() {
			if socket.Transport() == "polling" {
				f.Polling++
			}
		}
	}
	f.Polling = min(f.Polling, f.Clients) // a connection may be in several namespaces
	first, named := from[u.node.Tag()]
	f.Notes, f.Next = u.notes.since(first, named)
	return f
}

// answered is what one node has answered.
type answered struct {
	cluster.Member
	figures
}

// ask asks all nodes how they are. One that has not answered, or has no UI, is not among them.
func (u *UI) ask(ctx context.Context, from map[string]uint64) []answered {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	all := []answered{{cluster.Member{Name: u.hub.Node(), Tag: u.node.Tag()}, u.figures(from)}}
	for a := range u.emitter.ServerSideEmitAck(ctx, askFigures, from).All {
		var f figures
		if json.Unmarshal(a.Value, &f) == nil {
			all = append(all, answered{a.Node, f})
		}
	}
	return all
}

// stats are server_stats of a node, as pages want them. Before is what the node had counted when it was asked last; nil: it
// was not.
func (a *answered) stats(before map[string]uint64, now time.Time) map[string]any {
	events := []map[string]any{}
	for kind, n := range a.Counts {
		if was, ok := before[kind]; ok && n > was {
			events = append(events, map[string]any{"timestamp": now.Truncate(time.Second).UnixMilli(), "type": kind, "count": n - was})
		}
	}
	return map[string]any{
		"serverId": a.Name + "#" + a.Tag, "hostname": a.Hostname, "pid": a.PID, "uptime": a.Uptime,
		"clientsCount": a.Clients, "pollingClientsCount": a.Polling, "aggregatedEvents": events, "namespaces": a.Namespaces,
	}
}
