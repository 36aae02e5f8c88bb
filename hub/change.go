package hub

import (
	"context"
	"encoding/binary"
	"errors"

	"tether/cluster"
)

// Changed is what a change of sockets on all nodes has come to.
type Changed struct {
	Sockets int       // that were changed
	Nodes   []Member  // on which the change is in force, sorted by name
	Missing []Missing // nodes of which that is not known
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
	asking, err := e.ask(ctx, topic, to, true, rest)
	if err != nil {
		return c, err
	}
	for _, page := range asking.Pages {
		if n, _ := binary.Uvarint(page); n < 1<<31 {
			c.Sockets += int(n)
		}
	}
	c.Nodes, c.Missing = asking.Answered(), asking.Missing()
	return c, questionError(asking.Err())
}

func (h *Hub) answerChange(ctx context.Context, q *cluster.Request, a *about) error {
	var rooms []Target
	closing := false
	if q.Topic == topicDisconnect {
		closing = len(a.rest) > 0 && a.rest[0] == 1
	} else {
		n, rest, ok := cutUvarint(a.rest, len(a.rest))
		for range n {
			var name []byte
			if name, rest, ok = cutText(rest); !ok {
				break
			}
			rooms = append(rooms, targetOf(string(name)))
		}
		if !ok {
			return errEnvelopeMalformed
		}
	}
	changed := 0
	var failed error
	for s := range h.among(a) {
		switch q.Topic {
		case topicJoin:
			if err := s.Join(ctx, rooms...); errors.Is(err, ErrDisconnected) {
				continue
			} else if err != nil {
				failed = err
				continue
			}
		case topicLeave:
			s.Leave(rooms...)
		case topicDisconnect:
			s.Disconnect(closing)
		}
		changed++
	}
	if err := q.Send(ctx, binary.AppendUvarint(nil, uint64(changed))); err != nil {
		return err
	}
	return failed
}
