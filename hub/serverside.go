package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"tether/cluster"
	"tether/internal/socketio"
)

type serverHandler = func(ctx context.Context, m *Message) (answer any, err error)

// NodeAnswer is what one node has answered.
type NodeAnswer struct {
	Node  cluster.Member
	Value json.RawMessage
}

// errNoServerHandler is why a node is missing that does not handle an event.
var errNoServerHandler = errors.New("hub: this node has no handler for the event")

// OnServerSide handles an event that another process of the cluster has sent with [Emitter.ServerSideEmit] or
// [Emitter.ServerSideEmitAck]: not one of clients. What f returns is encoded as JSON, and is the answer of this node.
// Ctx ends when nobody waits for the answer any more. An event has one handler, the last one that was given.
func (n *Namespace) OnServerSide(event string, f func(ctx context.Context, m *Message) (answer any, err error)) {
	n.change(func(h *handlers) {
		on := make(map[string]serverHandler, len(h.serverSide)+1)
		for name, f := range h.serverSide {
			on[name] = f
		}
		on[event] = f
		h.serverSide = on
	})
}

// ServerSideEmit runs the handlers of OnServerSide of the emitter's namespace on all other nodes, or with an
// emitter without a hub on all nodes. It returns when they have begun, with the nodes of which that is not
// known.
func (e *Emitter) ServerSideEmit(ctx context.Context, event string, args ...any) ([]cluster.Missing, error) {
	answers := e.askServers(ctx, 0, event, args)
	for range answers.All { // there are none
	}
	return answers.Missing(), answers.Err()
}

// ServerSideEmitAck is ServerSideEmit with an answer from each node. Each handler runs once at most; a node
// whose handler fails is missing, with its error.
func (e *Emitter) ServerSideEmitAck(ctx context.Context, event string, args ...any) *Answers[NodeAnswer] {
	return e.askServers(ctx, 1, event, args)
}

func (e *Emitter) askServers(ctx context.Context, wantsAnswer byte, event string, args []any) *Answers[NodeAnswer] {
	if !socketio.ValidNamespace(e.namespace) {
		return &Answers[NodeAnswer]{err: ErrNamespace}
	}
	text, err := json.Marshal(append([]any{event}, args...))
	if err != nil {
		return &Answers[NodeAnswer]{err: fmt.Errorf("hub: encode arguments of server-side event %q: %w", event, err)}
	}
	q := cluster.Question{
		Topic:  topicServerSide,
		Body:   append(append(appendText(nil, e.namespace), wantsAnswer), text...),
		Others: true,
		Once:   true,
	}
	return &Answers[NodeAnswer]{
		asking: &asking{Asking: e.publisher.cluster.Ask(ctx, q)},
		cut: func(node cluster.Member, page []byte) (NodeAnswer, []byte, bool) {
			return NodeAnswer{node, page}, nil, true
		},
	}
}

func (h *Hub) answerServerSide(ctx context.Context, q *cluster.Request) error {
	name, body, ok := cutText(q.Body)
	if !ok || len(body) == 0 {
		return errEnvelopeMalformed
	}
	p, err := socketio.Parse(append([]byte{'0' + byte(socketio.Event)}, body[1:]...), socketio.Limits{})
	if err != nil {
		return errEnvelopeMalformed
	}
	m := newMessage(nil, p, p.Data, nil)
	f := h.serverHandler(string(name), m.event)
	if f == nil {
		return errNoServerHandler
	}
	type outcome struct {
		answer any
		err    error
	}
	done := make(chan outcome, 1)
	waits := body[0] == 1
	if !waits {
		ctx = h.handlerContext
	}
	// Run waits for it, as for handlers of clients' events.
	if !h.work.Go(func() {
		var o outcome
		defer func() { done <- o }()
		defer recoverInto(&o.err)
		if o.answer, o.err = f(ctx, m); o.err != nil {
			h.log.Warn("handler of a server-side event failed", "event", m.event, "error", o.err)
		}
	}) {
		return ErrDraining
	}
	if !waits {
		return nil
	}
	select {
	case o := <-done:
		if o.err != nil {
			return o.err
		}
		text, err := json.Marshal(o.answer)
		if err != nil {
			return fmt.Errorf("hub: encode the answer to server-side event %q: %w", m.event, err)
		}
		return q.Send(ctx, text)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serverHandler is nil if there is none.
func (h *Hub) serverHandler(namespace, event string) serverHandler {
	h.mu.Lock()
	n := h.fixed[namespace]
	if n == nil {
		n = h.children[namespace]
	}
	h.mu.Unlock()
	if n == nil {
		return nil
	}
	return n.handled().serverSide[event]
}
