package presence

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/internal/wire"
)

// RoomMember is somebody who is in a room, on however many devices.
type RoomMember struct {
	Name string          `json:"name"`           // as it was given to Enter
	Data json.RawMessage `json:"data,omitempty"` // what the application has published: that of the device that said it last
}

// RoomChange is what the sockets that watch a room are sent: the whole, in one event or several, and what changes. A
// change that comes before the whole is in the whole.
type RoomChange struct {
	Room  string       `json:"room"`
	Whole bool         `json:"whole,omitempty"` // the whole begins: what was known of the room is to be dropped
	Came  []RoomMember `json:"came,omitempty"`  // and those whose data is another one
	Left  []string     `json:"left,omitempty"`  // their names

	// Unknown are the names of the nodes that have not answered: more members may be there. Nil: it has not
	// changed.
	Unknown []string `json:"unknown,omitzero"`
}

// maxName is how long the name of a member may be, in bytes.
const maxName = 256

// Enter puts a socket into a room, as [hub.Socket.Join] does, and shows it there under a name, the ID of its user
// say, with data that is encoded as JSON; nil: none. Sockets with one name are one member. It is shown until
// the socket leaves the room or ends; to enter again is to change name and data. A socket that is still
// connecting is shown when its client has been told that it is connected.
//
// The error is that of Join, hub.ErrTarget for what is no room, or says that name or data is too long: see
// Options.RoomDataBytes. With an error nothing has changed but what Join has.
func (p *Presence) Enter(ctx context.Context, s *hub.Socket, room hub.Target, name string, data any) error {
	if room != hub.Room(room.Name()) || room == (hub.Target{}) {
		return fmt.Errorf("presence: enter: %w", hub.ErrTarget)
	}
	if name == "" || len(name) > maxName {
		return fmt.Errorf("presence: enter: a name has 1 to %d bytes, this one has %d", maxName, len(name))
	}
	var text []byte
	if data != nil {
		var err error
		if text, err = json.Marshal(data); err != nil {
			return fmt.Errorf("presence: enter: data: %w", err)
		}
	}
	if len(text) > p.o.RoomDataBytes {
		return fmt.Errorf("presence: enter: data has %d bytes as JSON, and RoomDataBytes is %d: publish an ID by which clients find the rest", len(text), p.o.RoomDataBytes)
	}
	return p.enter(ctx, s, room, name, seen{string(text), time.Now().UnixNano()})
}

// WatchRoom has a socket be sent who is in a room, and then what changes, as Options.RoomEvent with a [RoomChange]. To watch
// again is to be sent the whole again. It ends with UnwatchRoom, and with the socket. The error is that of
// [hub.Socket.Join], or hub.ErrTarget for what is no room.
func (p *Presence) WatchRoom(ctx context.Context, s *hub.Socket, room hub.Target) error {
	if room != hub.Room(room.Name()) || room == (hub.Target{}) {
		return fmt.Errorf("presence: watch: %w", hub.ErrTarget)
	}
	p.mu.Lock()
	p.watchLocked(s, room)
	p.mu.Unlock()
	if err := s.Join(ctx, watchersOf(room)); err != nil {
		p.UnwatchRoom(s, room)
		return err
	}
	p.mu.Lock()
	p.joinedLocked(s, s.Namespace().Emitter().Subject(room))
	p.mu.Unlock()
	return nil
}

// UnwatchRoom ends WatchRoom.
func (p *Presence) UnwatchRoom(s *hub.Socket, room hub.Target) {
	p.mu.Lock()
	p.unwatchLocked(s, s.Namespace().Emitter().Subject(room))
	p.mu.Unlock()
	s.Leave(watchersOf(room))
}

// watchersOf is the target of the sockets that watch a room. No client can choose it as the name of a room.
func watchersOf(room hub.Target) hub.Target { return hub.Kind("watches room").User(room.Name()) }

// InRoom says who is in a room, on all nodes, in the emitter's namespace, sorted by name, and the nodes that have not
// answered, of which nothing is known. It asks those that have the room, and ends as [Online] does. The emitter may be a
// worker's, whose Run runs.
func InRoom(ctx context.Context, e *hub.Emitter, room hub.Target) ([]RoomMember, []cluster.Missing, error) {
	key := e.Subject(room)
	if room != hub.Room(room.Name()) || key == "" {
		return nil, nil, fmt.Errorf("presence: room: %w", hub.ErrTarget)
	}
	all := make(map[string]seen)
	asking := e.Cluster().Ask(ctx, cluster.Question{Topic: topicRooms, Subject: key, Body: wire.AppendText(wire.AppendText([]byte{wireVersion}, ""), key)})
	for tag, page := range asking.Pages {
		r := read(page)
		for r.More() {
			for _, s := range readExcerpt(&r).names {
				if old, was := all[s.name]; !was || s.since > old.since {
					all[s.name] = s.seen
				}
			}
		}
		if r.Bad {
			asking.Unreadable(tag)
		}
	}
	if err := asking.Err(); err != nil {
		return nil, nil, askError(err)
	}
	list := make([]RoomMember, 0, len(all))
	for name, s := range all {
		list = append(list, s.member(name))
	}
	sortMembers(list)
	return list, asking.Missing(), nil
}

func sortMembers(list []RoomMember) {
	slices.SortFunc(list, func(a, b RoomMember) int { return strings.Compare(a.Name, b.Name) })
}

// seen is what is known of a member: the data, and since when it is that, by the clock of its node.
type seen struct {
	data  string
	since int64
}

func (s seen) member(name string) RoomMember {
	m := RoomMember{Name: name}
	if s.data != "" {
		m.Data = json.RawMessage(s.data)
	}
	return m
}

// seat is a socket that is shown in a room, or is about to be.
type seat struct {
	socket *hub.Socket
	room   hub.Target
	stay   *stay // nil: the socket has left
	name   string
	seen
	shown    bool
	entering int // calls of Enter that wait for the broker
}

// enter keeps a seat while it waits, so that the end of the socket finds it.
func (p *Presence) enter(ctx context.Context, s *hub.Socket, room hub.Target, name string, as seen) error {
	p.mu.Lock()
	at := p.seatLocked(s, room)
	at.entering++
	p.mu.Unlock()
	err := s.Join(ctx, room)
	p.mu.Lock()
	defer p.mu.Unlock()
	at.entering--
	switch {
	case at.stay == nil:
		return cmp.Or(err, hub.ErrDisconnected)
	case err != nil:
		if at.name == "" && at.entering == 0 {
			p.leaveLocked(at, false)
		}
		return err
	case !slices.Contains(s.Rooms(), room): // it has left meanwhile
		if at.entering == 0 {
			p.leaveLocked(at, false)
		}
		return nil
	}
	p.hideLocked(at, at.name != name, false)
	at.name, at.seen = name, as
	p.showLocked(at)
	return nil
}

// seatLocked is the seat of a socket in a room, which is made if there is none.
func (p *Presence) seatLocked(s *hub.Socket, room hub.Target) *seat {
	key := s.Namespace().Emitter().Subject(room)
	for _, at := range p.seats[s] {
		if at.stay.key == key {
			return at
		}
	}
	at := &seat{socket: s, room: room, stay: p.stayLocked(key)}
	p.seats[s] = append(p.seats[s], at)
	at.stay.seats++
	return at
}

// showLocked shows a socket whose client has been told that it is connected.
func (p *Presence) showLocked(at *seat) {
	if at.name == "" || !at.socket.Connected() {
		return
	}
	if !at.shown {
		at.shown = true
		at.stay.names[at.name] = append(at.stay.names[at.name], at)
	}
	p.noteLocked(at.stay, at.name, false)
}

// hideLocked undoes showLocked, if it is to.
func (p *Presence) hideLocked(at *seat, wanted, ended bool) {
	if !at.shown || !wanted {
		return
	}
	at.shown = false
	st := at.stay
	if st.names[at.name] = slices.DeleteFunc(st.names[at.name], func(o *seat) bool { return o == at }); len(st.names[at.name]) == 0 {
		delete(st.names, at.name)
	}
	p.noteLocked(st, at.name, ended)
}

// leaveLocked takes a socket out of a room. Ended says that it did not leave by itself, and may come back.
func (p *Presence) leaveLocked(at *seat, ended bool) {
	p.hideLocked(at, true, ended)
	list := slices.DeleteFunc(p.seats[at.socket], func(o *seat) bool { return o == at })
	if p.seats[at.socket] = list; len(list) == 0 {
		delete(p.seats, at.socket)
	}
	at.stay.seats--
	p.dropStayLocked(at.stay)
	at.stay = nil
}

// movedLocked takes what the hub has told of a socket and a room.
func (p *Presence) movedLocked(s *hub.Socket, room hub.Target) {
	for _, at := range p.seats[s] {
		if at.room != room || at.entering > 0 {
			continue
		}
		if slices.Contains(s.Rooms(), room) { // the last look is the last word
			if !at.shown {
				p.showLocked(at)
			}
		} else {
			p.leaveLocked(at, false)
			return
		}
	}
}

// endedLocked takes that a socket has ended.
func (p *Presence) endedLocked(s *hub.Socket) {
	for len(p.seats[s]) > 0 {
		p.leaveLocked(p.seats[s][0], true)
	}
	for _, key := range p.watching[s] {
		p.unseatLocked(s, key)
	}
	delete(p.watching, s)
}

var errAsker = errors.New("presence: the node that asks is not on this one's list of members")
