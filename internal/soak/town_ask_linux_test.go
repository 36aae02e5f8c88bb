package soak

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/internal/long"
	"tether/presence"
)

// answer is what has come of a question.
type answer struct {
	found   []string // IDs of residents, or names of nodes; nil: none are expected
	missing []cluster.Missing
	err     error
}

// inquiry is a kind of question.
type inquiry struct {
	name string
	ask  func(w *town, ask asker)
}

// asker puts one question. With all the answer has to have what all nodes have that are well.
type asker func(kind string, all func(p *place) []string, q func(ctx context.Context, e *hub.Emitter) answer)

func (w *town) questions() []inquiry {
	return []inquiry{
		{"FetchSockets", func(w *town, ask asker) {
			ask("FetchSockets", residentIDs, fetch(residence))
		}},
		{"EmitAck", func(w *town, ask asker) {
			ask("EmitAck", residentIDs, func(ctx context.Context, e *hub.Emitter) (a answer) {
				asked := e.EmitAck(ctx, hub.Room(residence), "question")
				for r := range asked.All {
					var id string
					if r.Err == nil && r.Answer.Decode(0, &id) == nil && id == r.ID {
						a.found = append(a.found, id)
					}
				}
				return answer{a.found, asked.Missing(), asked.Err()}
			})
		}},
		{"ServerSideEmitAck", func(w *town, ask asker) {
			ask("ServerSideEmitAck", func(p *place) []string { return []string{fmt.Sprintf("%q", p.name)} }, func(ctx context.Context, e *hub.Emitter) (a answer) {
				asked := e.ServerSideEmitAck(ctx, "who")
				for r := range asked.All {
					a.found = append(a.found, string(r.Value))
				}
				return answer{a.found, asked.Missing(), asked.Err()}
			})
		}},
		{"Join and Leave", (*town).askToMove},
		{"Disconnect", (*town).askToGo},
		{"Online", func(w *town, ask asker) {
			ask("Online", residentIDs, w.online)
			ask("InRoom", nil, func(ctx context.Context, e *hub.Emitter) answer {
				_, missing, err := presence.InRoom(ctx, e, hub.Room(lobby))
				return answer{nil, missing, err}
			})
		}},
	}
}

func residentIDs(p *place) (ids []string) {
	for _, c := range p.residents() {
		ids = append(ids, c.ID)
	}
	return ids
}

func fetch(room string) func(ctx context.Context, e *hub.Emitter) answer {
	return func(ctx context.Context, e *hub.Emitter) (a answer) {
		asked := e.FetchSockets(ctx, hub.Room(room), hub.FetchOptions{Rooms: true})
		for s := range asked.All {
			a.found = append(a.found, s.ID)
		}
		return answer{a.found, asked.Missing(), asked.Err()}
	}
}

func (w *town) online(ctx context.Context, e *hub.Emitter) (a answer) {
	var users []hub.Target
	for _, p := range w.places {
		for i := range perPlace {
			users = append(users, hub.User(fmt.Sprint("resident of ", p.name, " ", i)))
		}
	}
	all, missing, err := presence.Online(ctx, e, users...)
	for _, s := range all {
		for _, d := range s.Devices {
			a.found = append(a.found, d.Socket)
		}
	}
	return answer{a.found, missing, err}
}

// askToMove has all residents join a room and leave it. When that is answered it is in force.
func (w *town) askToMove(ask asker) {
	room := fmt.Sprint("room ", w.extra.Add(1))
	marks := w.marks()
	still := func(p *place) []string { // whose node has been well since before
		if mark, _ := p.mark(); mark != marks[p] {
			return nil
		}
		return residentIDs(p)
	}
	ask("Join", nil, func(ctx context.Context, e *hub.Emitter) answer {
		c, err := e.Join(ctx, hub.Room(residence), hub.Room(room))
		return answer{nil, c.Missing, err}
	})
	ask("FetchSockets after Join", still, fetch(room))
	ask("Leave", nil, func(ctx context.Context, e *hub.Emitter) answer {
		c, err := e.Leave(ctx, hub.Room(residence), hub.Room(room))
		return answer{nil, c.Missing, err}
	})
	ask("FetchSockets after Leave", func(p *place) []string { return nil }, func(ctx context.Context, e *hub.Emitter) answer {
		a := fetch(room)(ctx, e)
		for p, mark := range marks {
			if now, _ := p.mark(); now == mark && slices.ContainsFunc(residentIDs(p), func(id string) bool { return slices.Contains(a.found, id) }) {
				w.t.Errorf("a resident of %s is in a room that all have left", p.name)
			}
		}
		return a
	})
}

// askToGo has a client disconnected whose node is well.
func (w *town) askToGo(ask asker) {
	p := w.places[rand.IntN(len(w.places))]
	mark, well := p.mark()
	if !well {
		p = w.places[0]
		mark, _ = p.mark()
	}
	room := fmt.Sprint("room ", w.extra.Add(1))
	c, err := w.enter(p, visit{User: room, Rooms: []string{room}})
	d := device{c, p, mark}
	if err != nil {
		if d.sure() {
			w.t.Errorf("%s cannot connect to %s: %v", room, p.name, err)
		}
		return
	}
	defer c.Close()
	ask("Disconnect", nil, func(ctx context.Context, e *hub.Emitter) answer {
		c, err := e.Disconnect(ctx, hub.Room(room), true)
		if d.sure() && c.Sockets != 1 {
			w.t.Errorf("%d sockets were disconnected of one on %s", c.Sockets, p.name)
		}
		return answer{nil, c.Missing, err}
	})
	within(wait, func() bool {
		select {
		case <-c.Ended():
			return true
		default:
			return !d.sure()
		}
	})
	select {
	case <-c.Ended():
	default:
		if d.sure() {
			w.t.Errorf("a client on %s was disconnected, and is there", p.name)
		}
	}
}

// marks are those of the places that are well.
func (w *town) marks() map[*place]int64 {
	marks := make(map[*place]int64)
	for _, p := range w.places {
		if mark, well := p.mark(); well {
			marks[p] = mark
		}
	}
	return marks
}

// keepAsking puts questions of one kind until stop is closed. But is the name of the node that asks, which does not
// ask itself where nodes are asked.
func (w *town) keepAsking(q inquiry, e *hub.Emitter, but string, stop <-chan struct{}) {
	for !w.t.Failed() {
		select {
		case <-stop:
			return
		case <-time.After(rand.N(long.Or(400*time.Millisecond, 50*time.Millisecond))):
		}
		q.ask(w, func(kind string, all func(p *place) []string, put func(ctx context.Context, e *hub.Emitter) answer) {
			w.put(kind, e, but, all, put)
		})
	}
}

// put puts one question, and looks at the answer.
func (w *town) put(kind string, e *hub.Emitter, but string, all func(p *place) []string, q func(ctx context.Context, e *hub.Emitter) answer) {
	marks := w.marks()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), long.Limit(ghostTime))
	defer cancel()
	a := q(ctx, e)
	took := time.Since(began)
	if ctx.Err() != nil {
		w.t.Errorf("%s has not ended by itself: %v, missing %v, %v", kind, took, a.missing, a.err)
		return
	}
	if a.err != nil {
		w.t.Errorf("%s: %v", kind, a.err)
	}
	maps.DeleteFunc(marks, func(p *place, mark int64) bool { now, _ := p.mark(); return now != mark })
	slices.Sort(a.found)
	for i, id := range a.found[:max(0, len(a.found)-1)] {
		if id == a.found[i+1] {
			w.t.Errorf("%s: %s is there twice", kind, id)
		}
	}
	for p := range marks {
		if slices.ContainsFunc(a.missing, func(m cluster.Missing) bool { return m.Node.Name == p.name }) {
			w.t.Errorf("%s: %s is missing: %v", kind, p.name, a.missing)
		}
		if all == nil || p.name == but && kind == "ServerSideEmitAck" {
			continue
		}
		for _, id := range all(p) {
			if !slices.Contains(a.found, id) {
				w.t.Errorf("%s: %s of %s is not there after %v; found %v, missing nodes are %v, asked by %q", kind, id, p.name, took, a.found, a.missing, but)
			}
		}
	}
	for _, m := range a.missing {
		if m.Why == nil {
			w.t.Errorf("%s does not say why %s is missing", kind, m.Node.Name)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[kind]++
	w.slowest[kind] = max(w.slowest[kind], took)
	w.missing += len(a.missing)
}
