package presence

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/internal/wire"
)

// Device is a connected socket of a user.
type Device struct {
	Socket    string         // its ID: emit to it with hub.SocketID
	Node      cluster.Member // that it is on
	Transport string         // as hub.Socket.Transport
	Since     time.Time      // when it was registered, by the clock of its node
}

// Status is what is known of a user.
type Status struct {
	User    hub.Target
	Devices []Device // those of one node together, in the order in which they came
}

// Online reports whether the user has a device. A user without one may have some on the nodes that are missing.
func (s *Status) Online() bool { return len(s.Devices) > 0 }

// Online says which devices users have, on all nodes, in the emitter's namespace: one Status for each user, in
// their order, and the nodes that have not answered, of which nothing is known. Thousands of users are one
// call. It ends as all questions do: when each node has answered or is off the list of members, or with ctx. The
// error says that nothing could be asked; it is that of [hub.Answers.Err].
//
// The emitter may be a worker's, whose Run runs. A node without a Presence is one that is missing.
func Online(ctx context.Context, e *hub.Emitter, users ...hub.Target) ([]Status, []cluster.Missing, error) {
	all := make([]Status, len(users))
	places := make(map[string][]int, len(users)) // a user may be asked about twice
	var keys []string
	for i, u := range users {
		if u == (hub.Target{}) || u == hub.Everyone || e.Subject(u) == "" {
			return nil, nil, fmt.Errorf("presence: online: %w", hub.ErrTarget)
		}
		all[i].User = u
		key := e.Subject(u)
		if places[key] == nil {
			keys = append(keys, key)
		}
		places[key] = append(places[key], i)
	}
	o := &onlineAnswers{e: e, keys: keys, all: all, places: places, missing: make(map[string]cluster.Missing)}
	if err := o.askAll(ctx); err != nil {
		return nil, nil, askError(err)
	}
	missing := slices.SortedFunc(maps.Values(o.missing), func(a, b cluster.Missing) int { return strings.Compare(a.Node.Name, b.Node.Name) })
	return all, missing, nil
}

const (
	onlineAtOnce = 8                      // questions of one call that are under way
	onlineTurn   = 250 * time.Millisecond // after which one does not count: a node that does not answer holds up no others
)

// onlineAnswers is a call of Online.
type onlineAnswers struct {
	e      *hub.Emitter
	keys   []string
	places map[string][]int // of each key in all

	mu      sync.Mutex
	all     []Status                   // their devices are guarded by mu
	missing map[string]cluster.Missing // guarded by mu; by tag
	err     error                      // guarded by mu
}

// askAll asks about all users, in several questions if they are many.
func (o *onlineAnswers) askAll(ctx context.Context) error {
	turns := make(chan struct{}, onlineAtOnce)
	var wg sync.WaitGroup
	for keys := o.keys; len(keys) > 0; {
		body := []byte{wireVersion}
		n := 0
		for n < len(keys) && (n == 0 || len(body)+len(keys[n]) < batchBytes) {
			body = wire.AppendText(body, keys[n])
			n++
		}
		keys = keys[n:]
		q := cluster.Question{Topic: topicOnline, Body: body}
		if len(o.keys) == 1 {
			q.Subject = o.keys[0] // no other node has devices
		}
		turns <- struct{}{}
		end := sync.OnceFunc(func() { <-turns })
		turn := time.AfterFunc(onlineTurn, end)
		wg.Go(func() {
			o.ask(ctx, q)
			turn.Stop()
			end()
		})
	}
	wg.Wait()
	return o.err
}

func (o *onlineAnswers) ask(ctx context.Context, q cluster.Question) {
	asking := o.e.Cluster().Ask(ctx, q)
	for tag, page := range asking.Pages {
		node := asking.Member(tag)
		r := read(page)
		o.mu.Lock()
		for r.More() {
			key, devices := readDevices(&r, node)
			for _, i := range o.places[key] {
				o.all[i].Devices = append(o.all[i].Devices, devices...)
			}
		}
		o.mu.Unlock()
		if r.Bad {
			asking.Unreadable(tag)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = cmp.Or(o.err, asking.Err())
	for _, m := range asking.Missing() {
		o.missing[m.Node.Tag] = m
	}
}

func askError(err error) error {
	if errors.Is(err, cluster.ErrNotRunning) {
		return fmt.Errorf("presence: %w: answers come while Run of the hub, or of the emitter, runs", hub.ErrNotRunning)
	}
	return fmt.Errorf("presence: %w", err)
}

func readDevices(r *reader, node cluster.Member) (key string, devices []Device) {
	key = r.text()
	for range r.Count() {
		d := Device{Node: node, Socket: r.text(), Transport: r.text(), Since: time.Unix(0, r.Varint())}
		if !r.Bad {
			devices = append(devices, d)
		}
	}
	return key, devices
}

// answerOnline says which devices the users have here.
func (p *Presence) answerOnline(ctx context.Context, q *cluster.Request) error {
	r := read(q.Body)
	if r.Byte() != wireVersion {
		return errVersion
	}
	var page []byte
	for r.More() {
		if page = p.appendDevices(page, r.text()); len(page) < batchBytes {
			continue
		}
		if err := q.Send(ctx, page); err != nil {
			return err
		}
		page = nil
	}
	return q.Send(ctx, page)
}

func (p *Presence) appendDevices(dst []byte, key string) []byte {
	p.mu.Lock()
	h := p.holdings[key]
	var devices []held
	if h != nil {
		devices = h.presentLocked()
	}
	p.mu.Unlock()
	if len(devices) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(wire.AppendText(dst, key), uint64(len(devices)))
	for _, d := range devices {
		dst = wire.AppendText(wire.AppendText(dst, d.socket.ID()), d.socket.Transport())
		dst = binary.AppendVarint(dst, d.since)
	}
	return dst
}
