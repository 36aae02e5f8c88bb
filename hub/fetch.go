package hub

import (
	"context"
	"encoding/binary"
	"encoding/json"

	"tether/cluster"
	"tether/engine"
)

// RemoteSocket is a connected socket of any node.
type RemoteSocket struct {
	ID         string // emit to it with SocketID
	Node       cluster.Member
	Namespace  string
	Transport  string          // as Socket.Transport
	Connection string          // the public name of its connection, as in logs: see engine.PublicID
	Rooms      []Target        // as Socket.Rooms, if they were asked for
	Data       json.RawMessage // what Socket.SetData was given, as JSON, if it was asked for and can be encoded
	Handshake  *Handshake      // if it was asked for
}

// FetchOptions say what is fetched of a socket beside its ID, its node and its transport.
type FetchOptions struct {
	Rooms     bool
	Data      bool
	Handshake bool
}

const (
	fetchRooms byte = 1 << iota
	fetchData
	fetchHandshake
)

// FetchSockets finds the connected sockets of a target on all nodes. However many they are, they come in
// pages, and a node sends more when those before have been taken. Sockets that come, go or move to another room
// meanwhile may or may not be among them.
func (e *Emitter) FetchSockets(ctx context.Context, to Target, o FetchOptions) *Answers[RemoteSocket] {
	var what byte
	for flag, wanted := range map[byte]bool{fetchRooms: o.Rooms, fetchData: o.Data, fetchHandshake: o.Handshake} {
		if wanted {
			what |= flag
		}
	}
	asking, err := e.ask(ctx, topicFetch, to, false, []byte{what}, nil)
	return &Answers[RemoteSocket]{asking: asking, err: err, cut: func(node cluster.Member, page []byte) (s RemoteSocket, rest []byte, ok bool) {
		s, rest, ok = cutRemote(page, what)
		s.Node, s.Namespace = node, e.namespace
		return s, rest, ok
	}}
}

func (h *Hub) answerFetch(ctx context.Context, q *cluster.Request, a *about) error {
	var what byte
	if len(a.rest) > 0 {
		what = a.rest[0]
	}
	var page []byte
	for s := range h.among(a) {
		if !s.Connected() {
			continue
		}
		if page = s.appendRemote(page, what); len(page) < pageBytes {
			continue
		}
		if err := q.Send(ctx, page); err != nil {
			return err
		}
		page = nil
	}
	return q.Send(ctx, page)
}

// appendRemote appends what others are told of the socket:
//
//	text     ID
//	text     transport
//	text     public name of the connection
//	uvarint  number of rooms, and the name of each as a text; if rooms are asked for
//	text     data; if it is asked for
//	text     handshake, packed, and its auth as a text; if it is asked for
func (s *Socket) appendRemote(dst []byte, what byte) []byte {
	dst = appendText(appendText(dst, s.ID()), s.Transport())
	dst = appendText(dst, engine.PublicID(s.conn.ID()))
	if what&fetchRooms != 0 {
		rooms := s.Rooms()[1:]
		dst = binary.AppendUvarint(dst, uint64(len(rooms)))
		for _, r := range rooms {
			dst = appendText(dst, r.name)
		}
	}
	if what&fetchData != 0 {
		text, err := json.Marshal(s.Data())
		if err != nil {
			text = nil
		}
		dst = appendText(dst, string(text))
	}
	if what&fetchHandshake != 0 {
		s.client.mu.Lock()
		packed := s.client.handshake
		s.client.mu.Unlock()
		auth := ""
		s.mu.Lock()
		if s.extra != nil {
			auth = s.extra.auth
		}
		s.mu.Unlock()
		dst = appendText(appendText(dst, packed), auth)
	}
	return dst
}

func cutRemote(page []byte, what byte) (s RemoteSocket, rest []byte, ok bool) {
	text := func() (t string) {
		var b []byte
		if b, page, ok = cutText(page); !ok {
			page = nil
		}
		return string(b)
	}
	if s.ID = text(); !isID(s.ID) {
		return s, nil, false
	}
	s.Transport, s.Connection = text(), text()
	if what&fetchRooms != 0 {
		var n int
		if n, page, ok = cutUvarint(page, len(page)); !ok {
			return s, nil, false
		}
		s.Rooms = append(make([]Target, 0, n+1), SocketID(s.ID))
		for range n {
			s.Rooms = append(s.Rooms, targetOf(text()))
		}
	}
	if what&fetchData != 0 {
		s.Data = json.RawMessage(text())
	}
	if what&fetchHandshake != 0 {
		packed, auth := text(), text()
		if !ok {
			return s, nil, false
		}
		h, good := readHandshake(packed)
		if ok = good; auth != "" {
			h.Auth = json.RawMessage(auth)
		}
		s.Handshake = &h
	}
	return s, page, ok
}

// readHandshake is unpackHandshake for what another node has packed.
func readHandshake(packed string) (h Handshake, ok bool) {
	var err error
	defer func() { ok = err == nil }()
	defer recoverInto(&err) // it trusts the lengths in it
	return unpackHandshake(packed), true
}
