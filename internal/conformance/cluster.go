package conformance

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"tether/hub"
)

const (
	// clusterTimeout bounds what waits for other nodes: one that is gone is off the list of members by then.
	clusterTimeout = 5900 * time.Millisecond

	// roomTimeout leaves clients askTimeout: a tenth of it, at most a quarter of a second, is for the way back.
	roomTimeout = askTimeout + 250*time.Millisecond
)

// installCluster gives ns the events that look at, or act on, more than the socket's own node.
func installCluster(h *hub.Hub, ns *hub.Namespace) {
	ns.On("node", func(_ context.Context, _ *hub.Socket, m *hub.Message) error { return m.Ack(h.Node()) })
	ns.On("cluster-sockets", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		ids, err := clusterSockets(ctx, ns.Emitter(), m)
		if err != nil {
			return m.Ack(err.Error())
		}
		return m.Ack(ids)
	})
	onRoom(ns, "cluster-join", func(ctx context.Context, e *hub.Emitter, to hub.Target, m *hub.Message) error {
		other, err := roomAt(m, 1)
		if err != nil {
			return err
		}
		_, err = e.Join(ctx, to, hub.Room(other))
		return err
	})
	onRoom(ns, "cluster-leave", func(ctx context.Context, e *hub.Emitter, to hub.Target, m *hub.Message) error {
		other, err := roomAt(m, 1)
		if err != nil {
			return err
		}
		_, err = e.Leave(ctx, to, hub.Room(other))
		return err
	})
	onRoom(ns, "cluster-disconnect", func(ctx context.Context, e *hub.Emitter, to hub.Target, m *hub.Message) error {
		var closing bool
		if err := m.Decode(1, &closing); err != nil {
			return err
		}
		_, err := e.Disconnect(ctx, to, closing)
		return err
	})
	ns.On("ask-room", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error { return askRoom(ctx, ns.Emitter(), m) })
	ns.On("server-side", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
		defer cancel()
		answers := []json.RawMessage{}
		for a := range ns.Emitter().ServerSideEmitAck(ctx, "node-ping", m.Raw(0)).All {
			answers = append(answers, a.Value)
		}
		return m.Ack(sorted(answers))
	})
	ns.OnServerSide("node-ping", func(_ context.Context, m *hub.Message) (any, error) {
		x := string(m.Raw(0))
		if !strings.HasPrefix(x, `"`) {
			return h.Node() + ":" + x, nil
		}
		err := m.Decode(0, &x)
		return h.Node() + ":" + x, err
	})
}

// onRoom adds a handler for what is done to all sockets of the room that is the first argument. It acks
// when it is done, if the client wants to know.
func onRoom(ns *hub.Namespace, event string, do func(ctx context.Context, e *hub.Emitter, to hub.Target, m *hub.Message) error) {
	ns.On(event, func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		room, err := roomAt(m, 0)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
		defer cancel()
		for _, to := range targets(room) {
			if err := do(ctx, ns.Emitter(), to, m); err != nil {
				return err
			}
		}
		return m.Ack("ok")
	})
}

// clusterSockets are the sorted IDs of the sockets of a room, or of all for null.
func clusterSockets(ctx context.Context, e *hub.Emitter, m *hub.Message) ([]string, error) {
	to := []hub.Target{hub.Everyone}
	if string(m.Raw(0)) != "null" {
		room, err := roomAt(m, 0)
		if err != nil {
			return nil, err
		}
		to = targets(room)
	}
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	ids := []string{}
	for _, t := range to {
		found := e.FetchSockets(ctx, t, hub.FetchOptions{})
		for s := range found.All {
			ids = append(ids, s.ID)
		}
		if err := found.Err(); err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func askRoom(ctx context.Context, e *hub.Emitter, m *hub.Message) error {
	room, err := roomAt(m, 0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	timeout, answers := false, []json.RawMessage{}
	for _, to := range targets(room) {
		asked := e.EmitAck(ctx, to, "question", m.Raw(1))
		for a := range asked.All {
			switch {
			case a.Err != nil:
				timeout = true
			case a.Answer.Len() > 0:
				answers = append(answers, a.Answer.Raw(0))
			}
		}
		if err := asked.Err(); err != nil {
			return err
		}
		timeout = timeout || len(asked.Missing()) > 0
	}
	return m.Ack(map[string]any{"timeout": timeout, "answers": sorted(answers)})
}

// sorted sorts JSON texts.
func sorted(texts []json.RawMessage) []json.RawMessage {
	slices.SortFunc(texts, func(a, b json.RawMessage) int { return slices.Compare(a, b) })
	return texts
}
