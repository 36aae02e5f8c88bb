package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"tether/broker"
	"tether/cluster"
	"tether/internal/socketio"
)

// The topics of questions to other nodes; see package cluster.
const (
	topicFetch byte = 1 + iota
	topicJoin
	topicLeave
	topicDisconnect
	topicAck
	topicServerSide
	topicDevices
	topicSession
	topicLive
)

// pageBytes is about how large a page of an answer gets.
const pageBytes = 32 << 10

// errTopic is what a node says that is older than the one that asks.
var errTopic = errors.New("hub: this node does not know what is asked")

// Answers is what came of a question to all nodes that have something to say. All is called once, and the
// others after it.
type Answers[T any] struct {
	asking *asking
	cut    func(node cluster.Member, page []byte) (v T, rest []byte, ok bool) // takes what is first in a page
	err    error
}

// All yields what comes, as it comes. It ends when every node has answered, or is gone, or when the context
// of the call is done; one without a deadline ends after 30 s. What has come is good whatever is missing.
func (a *Answers[T]) All(yield func(T) bool) {
	if a.err != nil {
		return
	}
	for tag, page := range a.asking.Pages {
		node := a.asking.Member(tag)
		for len(page) > 0 {
			v, rest, ok := a.cut(node, page)
			if !ok { // nobody knows where the next one begins
				a.asking.Unreadable(tag)
				break
			}
			if page = rest; !yield(v) {
				return
			}
		}
	}
	a.err = questionError(a.asking.Err())
}

// Missing are the nodes that have not answered, or not to the end.
func (a *Answers[T]) Missing() []cluster.Missing {
	if a.asking == nil {
		return nil
	}
	return a.asking.Missing()
}

// Err is why the question could not be put: ErrTarget, ErrNamespace, ErrTooMany, ErrNotRunning
// for an emitter whose Run does not run, or an error of the broker. A node that is missing is no error.
func (a *Answers[T]) Err() error { return a.err }

func questionError(err error) error {
	switch {
	case errors.Is(err, cluster.ErrNotRunning):
		return fmt.Errorf("%w: answers come while Run of the hub, or of the emitter, runs", ErrNotRunning)
	case err != nil:
		return fmt.Errorf("hub: %w", err)
	}
	return nil
}

// Run lets an emitter without a hub get answers: it runs the broker until ctx is done, and returns nil
// then. Whatever calls FetchSockets, Join, Leave, Disconnect, EmitAck, ServerSideEmit or ServerSideEmitAck of
// such an emitter, or of one that was made from it, needs it; Emit does not. It calls up, which may be
// nil, when answers can come. An emitter of a hub has no Run: it returns an error.
func (e *Emitter) Run(ctx context.Context, up func()) error {
	if e.publisher.hub != nil {
		return errors.New("hub: run: this emitter belongs to a hub, whose Run gets the answers")
	}
	if err := e.publisher.cluster.Serve(ctx, up); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	return nil
}

// Members is [Hub.Members] for any process. It waits until this one has heard from all nodes, which takes an
// emitter without a hub a second and a half at most after its Run has begun.
func (e *Emitter) Members(ctx context.Context) ([]cluster.Member, error) {
	list, err := e.publisher.cluster.AwaitMembers(ctx)
	if stranger := e.publisher.stranger(); stranger != nil {
		return list, stranger
	}
	return list, questionError(err)
}

// Cluster is this process's part in the cluster, for packages that ask and answer questions of their own.
func (e *Emitter) Cluster() *cluster.Node { return e.publisher.cluster }

// Subject is where the broker carries what is for a target: the nodes that have sockets of it listen there. For
// Cluster; it is "" for a target that is no room.
func (e *Emitter) Subject(to Target) string {
	if to.kind == nobody || to.kind == single {
		return ""
	}
	return roomSubject(e.publisher.prefix, e.namespace, to)
}

// about says which sockets a question is about.
//
//	text     namespace
//	byte     kind of the target
//	text     its name
//	uvarint  number of exceptions, and the name of each as a text
//	rest     what the topic needs
type about struct {
	namespace string
	to        Target
	except    []string
	rest      []byte
}

func (e *Emitter) about(to Target) ([]byte, error) {
	switch {
	case !socketio.ValidNamespace(e.namespace):
		return nil, ErrNamespace
	case to == Target{} || slices.Contains(e.except, Target{}):
		return nil, ErrTarget
	case len(e.except) > maxTargets:
		return nil, errTooManyRooms
	case e.local && e.publisher.hub == nil:
		return nil, errNoHub
	}
	b := append(appendText(nil, e.namespace), byte(to.kind))
	b = binary.AppendUvarint(appendText(b, to.name), uint64(len(e.except)))
	for _, t := range e.except {
		b = appendText(b, t.name)
	}
	return b, nil
}

func parseAbout(body []byte) (a about, ok bool) {
	namespace, body, ok := cutText(body)
	if !ok || len(body) == 0 {
		return a, false
	}
	a.to.kind = targetKind(body[0])
	name, body, ok := cutText(body[1:])
	if !ok {
		return a, false
	}
	a.namespace, a.to.name = string(namespace), string(name)
	n, body, ok := cutUvarint(body, maxTargets)
	for range n {
		var except []byte
		if except, body, ok = cutText(body); !ok {
			return a, false
		}
		a.except = append(a.except, string(except))
	}
	a.rest = body
	return a, ok
}

// ask asks the nodes that have sockets of a target.
func (e *Emitter) ask(ctx context.Context, topic byte, to Target, once bool, rest []byte, trace *broker.Trace) (*asking, error) {
	body, err := e.about(to)
	if err != nil {
		return nil, err
	}
	q := cluster.Question{Topic: topic, Body: append(body, rest...), Once: once, Trace: trace}
	q.Subject = roomSubject(e.publisher.prefix, e.namespace, to)
	a := new(asking)
	switch {
	case e.local:
		q.Subject = e.publisher.hub.subject
	case to.kind == single:
		if room := q; e.publisher.origin != 0 {
			a.elsewhere = func() *cluster.Asking { return e.publisher.cluster.Ask(ctx, room) }
		}
		q.Subject = cluster.NodeSubject(e.publisher.prefix, to.name[:tagLength])
	}
	a.Asking = e.publisher.cluster.Ask(ctx, q)
	return a, nil
}

// asking is a question to the nodes that have sockets of a target. A single socket may have moved to another node: if
// the one that its ID names has nothing of it, the question goes to where the room of that name is.
type asking struct {
	*cluster.Asking
	elsewhere func() *cluster.Asking // nil: it cannot have moved
	first     *cluster.Asking        // what came before that; nil unless it was asked
	found     bool                   // something, elsewhere
}

func (a *asking) Pages(yield func(tag string, page []byte) bool) {
	found := false
	for tag, page := range a.Asking.Pages {
		if found = found || len(page) > 0; !yield(tag, page) {
			return
		}
	}
	if found || a.elsewhere == nil || a.Err() != nil {
		return
	}
	a.first, a.Asking = a.Asking, a.elsewhere()
	for tag, page := range a.Asking.Pages {
		if a.found = a.found || len(page) > 0; !yield(tag, page) {
			return
		}
	}
}

// Answered and Missing are those of the question that has found something, or of both.
func (a *asking) Answered() []cluster.Member {
	nodes := a.Asking.Answered()
	if a.first != nil && !a.found {
		nodes = append(a.first.Answered(), nodes...)
	}
	return nodes
}

func (a *asking) Missing() []cluster.Missing {
	missing := a.Asking.Missing()
	if a.first != nil && !a.found {
		missing = append(slices.Clip(a.first.Missing()), missing...)
	}
	return missing
}

// answer answers a question of any node's.
func (h *Hub) answer(ctx context.Context, q *cluster.Request) (err error) {
	defer recoverInto(&err)
	switch q.Topic {
	case topicServerSide:
		return h.answerServerSide(ctx, q)
	case topicDevices:
		return h.answerDevices(ctx, q)
	case topicSession:
		return h.answerSession(ctx, q)
	case topicFetch, topicJoin, topicLeave, topicDisconnect, topicAck, topicLive:
	default:
		h.count(errEnvelopeNewer)
		return errTopic
	}
	a, ok := parseAbout(q.Body)
	if !ok {
		h.count(errEnvelopeMalformed)
		return errEnvelopeMalformed
	}
	switch q.Topic {
	case topicFetch:
		return h.answerFetch(ctx, q, &a)
	case topicJoin, topicLeave, topicDisconnect:
		return h.answerChange(ctx, q, &a)
	case topicLive:
		return h.answerLive(ctx, q, &a)
	}
	return h.answerAck(ctx, q, &a)
}

// among yields the sockets of this node that a question is about. One that comes or goes meanwhile may or
// may not be seen.
func (h *Hub) among(a *about) iter.Seq[*Socket] {
	return func(yield func(*Socket) bool) {
		for s := range h.all(a) {
			if !s.passedOn() && !yield(s) {
				return
			}
		}
	}
}

// all is among, with the sockets of a room whose sessions another node has got.
func (h *Hub) all(a *about) iter.Seq[*Socket] {
	return func(yield func(*Socket) bool) {
		var x exceptions
		everyone := roomSubject(h.options.Prefix, a.namespace, Everyone)
		for _, name := range a.except {
			x.add(h, everyone, name)
		}
		if a.to.kind == single {
			// If another node has got its session that one is asked next.
			if s := h.socket(a.to.name); s != nil && s.ns.name == a.namespace && !x.has(s) && !s.passedOn() {
				yield(s)
			}
			return
		}
		for s := range h.index.lookup(everyone + a.to.name).each {
			if !x.has(s) && !yield(s) {
				return
			}
		}
	}
}
