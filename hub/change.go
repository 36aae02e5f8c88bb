package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"tether/cluster"
)

// Changed is what a change of sockets on all nodes has come to.
type Changed struct {
	Sockets int               // that were changed
	Nodes   []cluster.Member  // on which the change is in force, sorted by name
	Missing []cluster.Missing // nodes of which that is not known
}

// Join puts the sockets of a target, on all nodes, into rooms: everything that is emitted to the rooms from
// then on reaches the sockets of the nodes that the answer names. A socket that has no room for them, see
// Limits.Rooms, makes its node one of those that are missing, with that reason.
//
// Join, Leave and Disconnect end as [Answers.All] does, and the error is that of [Answers.Err].
func (e *Emitter) Join(ctx context.Context, to Target, rooms ...Target) (Changed, error) {
	return e.move(ctx, topicJoin, to, rooms)
}

// Leave takes the sockets of a target, on all nodes, out of rooms. See Join.
func (e *Emitter) Leave(ctx context.Context, to Target, rooms ...Target) (Changed, error) {
	return e.move(ctx, topicLeave, to, rooms)
}

// Disconnect disconnects the sockets of a target, on all nodes, as [Socket.Disconnect] does. See Join.
func (e *Emitter) Disconnect(ctx context.Context, to Target, closeConnections bool) (Changed, error) {
	rest := []byte{0}
	if closeConnections {
		rest[0] = 1
	}
	return e.change(ctx, topicDisconnect, to, rest)
}

func (e *Emitter) move(ctx context.Context, topic byte, to Target, rooms []Target) (Changed, error) {
	rest := binary.AppendUvarint(nil, uint64(len(rooms)))
	for _, r := range rooms {
		if !r.joinable() {
			return Changed{}, ErrTarget
		}
		rest = appendText(rest, r.name)
	}
	return e.change(ctx, topic, to, rest)
}

func (e *Emitter) change(ctx context.Context, topic byte, to Target, rest []byte) (c Changed, err error) {
	asking, err := e.ask(ctx, topic, to, true, rest, nil)
	if err != nil {
		return c, err
	}
	for tag, page := range asking.Pages {
		n, _, ok := cutUvarint(page, math.MaxInt32)
		if c.Sockets += n; !ok {
			asking.Unreadable(tag)
		}
	}
	c.Nodes, c.Missing = asking.Answered(), asking.Missing()
	return c, questionError(asking.Err())
}

func (h *Hub) answerChange(ctx context.Context, q *cluster.Request, a *about) error {
	c, ok := parseOrder(q.Topic, a.rest)
	if !ok {
		return errEnvelopeMalformed
	}
	changed := 0
	var failed error
	for s := range h.all(a) {
		switch done, err := h.change(ctx, s, c); {
		case err != nil:
			failed = err
		case done:
			changed++
		}
	}
	var page []byte
	if changed > 0 { // else it may have moved to another node
		page = binary.AppendUvarint(page, uint64(changed))
	}
	if err := q.Send(ctx, page); err != nil {
		return err
	}
	return failed
}

// order is a change that sockets are to make.
type order struct {
	topic   byte
	rooms   []Target // of topicJoin and topicLeave
	closing bool     // of topicDisconnect
	text    []byte   // as it has come
}

func parseOrder(topic byte, text []byte) (c order, ok bool) {
	c = order{topic: topic, text: text}
	if topic == topicDisconnect {
		c.closing = len(text) > 0 && text[0] == 1
		return c, true
	}
	n, rest, ok := cutUvarint(text, len(text))
	for range n {
		var name []byte
		if name, rest, ok = cutText(rest); !ok {
			break
		}
		c.rooms = append(c.rooms, targetOf(string(name)))
	}
	return c, ok
}

// change has a socket change, or the node that has got its session do it. It reports false if there was nothing to do.
func (h *Hub) change(ctx context.Context, s *Socket, c order) (done bool, err error) {
	var before bool
	for again := true; again && err == nil; again = s.gate.State() == stateMoved { // meanwhile: then the change may have missed it
		s = s.current()
		before = s.passedOn()
		done, err = s.change(ctx, c, before)
	}
	if err != nil {
		return false, err
	}
	if !s.passedOn() { // not even meanwhile
		return done && !before, nil
	}
	k, to, moves := s.movedTo()
	answer, err := h.askSession(ctx, to, k.question(sessionChange, h.tag, 0, append(binary.AppendUvarint(nil, uint64(moves)), c.topic), c.text))
	if err == nil && answer == nil {
		err = errLost
	}
	return len(answer) > 1 && answer[0] == sessionHere && answer[1] == 1, err
}

// change is Hub.change for what of it is on this node. Before says that another node has the session already.
func (s *Socket) change(ctx context.Context, c order, before bool) (done bool, err error) {
	switch c.topic {
	case topicJoin: // also where the session has gone: what comes here and there has to be the same
		err := s.joinRooms(ctx, stateMoved, c.rooms)
		if errors.Is(err, ErrDisconnected) {
			return false, nil
		}
		return err == nil, err
	case topicLeave:
		s.tellRegistered(s.leaveRooms(stateMoved, c.rooms)...)
	case topicDisconnect:
		if !before {
			s.Disconnect(c.closing)
		}
	}
	return true, nil
}

// changeHere is what the node that had the session of s has been asked. It answers whether that has made a difference:
// this node may have been asked, too. A session that has moved less often is one from before, and is not asked: two
// nodes that have both passed it on would ask each other.
func (h *Hub) changeHere(ctx context.Context, s *Socket, b []byte) []byte {
	moves, b, ok := cutUvarint(b, 1<<62)
	if !ok || s.moves() < moves || len(b) == 0 || b[0] < topicJoin || b[0] > topicDisconnect {
		return []byte{byte(lossUnknown)}
	}
	c, ok := parseOrder(b[0], b[1:])
	if !ok {
		return []byte{byte(lossUnknown)}
	}
	before := s.Rooms()
	done, err := h.change(ctx, s, c)
	switch {
	case err != nil:
		return nil
	case done && (c.topic == topicDisconnect || !slices.Equal(before, s.current().Rooms())):
		return []byte{sessionHere, 1}
	}
	return []byte{sessionHere, 0}
}
