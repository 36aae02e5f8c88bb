// Package relay lets the requests of a polling client come to any node: no proxy has to send all of them to one.
//
// A [Relay] is one node's part in it, and what transport.Options.Relay wants:
//
//	h, err := hub.New(b, hub.Options{})
//	link, err := relay.New(h.Emitter().Cluster(), relay.Options{})
//	sockets, err := transport.NewHandler(h, transport.Options{Relay: link})
//
// The ID of a session names the node that has it. Another node that gets a request for it looks for that node in
// the list of members, and passes the request on: through the broker, on which nodes reach each other anyway. So
// there is one hop at most, and a name that no live node has costs nothing.
//
// What comes through the broker is as good as the broker's messages: with hub.Options.Key nobody else can send or
// answer a request.
//
// Nodes that reach each other over HTTP need not burden the broker: see [Options]. Anybody who reaches that address can do
// what a client can that knows the ID of a session, which is a secret, and nothing else; with Options.Keys it needs the
// key, too. What is sent there is neither sealed nor encrypted: the URL is https, or the network is a private one.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker/seal"
	"tether/cluster"
	"tether/engine"
	"tether/internal/group"
)

// Options of a Relay. The zero value is ready to use.
type Options struct {
	// Peer is the URL at which other nodes reach this one, "http://10.0.0.5:3000" say: of a server that serves the
	// relay at [Path]. Other nodes pass requests on to there, over HTTP, and go through the broker while they cannot
	// connect. Default: through the broker.
	Peer string

	// Keys are those of hub.Options.Key: over HTTP, too, only nodes with the key are served. Default: all are.
	Keys seal.Keys
}

// Relay passes requests on to other nodes, and answers theirs. It works while the Run of its node does. As an
// [http.Handler], at Path, it answers the requests that other nodes pass on over HTTP.
type Relay struct {
	o     Options
	node  *cluster.Node
	serve http.Handler // set by Serve, before a request comes
	http  *http.Transport

	leaving context.Context // done when the node is about to end
	leave   context.CancelFunc
	passing group.Group // what is passed on

	numbers atomic.Uint64 // of bodies so far

	mu     sync.Mutex
	bodies map[uint64][]byte // guarded by mu; that are too long for the message with their request
	calls  map[*call]bool    // guarded by mu; that are under way over HTTP
}

const (
	topicRequest byte = 80 + iota // see request
	topicBody                     // of a request, by its number
)

const (
	maxInline  = 32 << 10        // bytes of a body that goes with its request
	chunk      = 48 << 10        // of a longer one, and of an answer
	againTime  = 5 * time.Second // between two questions whether a request is still being answered
	joinTime   = 2 * time.Second // for a node that has just begun to hear of the others
	retryTime  = 5 * time.Second // for a live node that the broker does not reach
	retryPause = 100 * time.Millisecond
	leaveTime  = 2 * time.Second // that what is passed on may take when the node ends
)

// New returns the relay of a node. It is called before the node's Run, once.
func New(node *cluster.Node, o Options) (*Relay, error) {
	if err := CheckPeer(o.Peer); err != nil {
		return nil, fmt.Errorf("relay: Options.Peer: %w", err)
	}
	if err := o.Keys.Check(); err != nil {
		return nil, fmt.Errorf("relay: Options.Keys: %w", err)
	}
	r := &Relay{o: o, node: node, http: newTransport(), bodies: make(map[uint64][]byte), calls: make(map[*call]bool)}
	r.leaving, r.leave = context.WithCancel(context.Background())
	node.Handle(topicRequest, r.answer)
	node.Handle(topicBody, r.answerBody)
	node.SetPeer(strings.TrimSuffix(o.Peer, "/"))
	node.Attach(r)
	return r, nil
}

// CheckPeer says what is wrong with Options.Peer.
func CheckPeer(peer string) error {
	u, err := url.Parse(peer)
	if peer != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		return errors.New("it must be a URL like http://10.0.0.5:3000, without user, query and fragment")
	}
	return nil
}

// Node is the tag of this node.
func (r *Relay) Node() string { return r.node.Tag() }

// Alone reports whether there is no other node.
func (r *Relay) Alone() bool {
	list, err := r.node.Members()
	return err == nil && len(list) == 1
}

// Leaving is done when the node is about to end, which then waits for what is passed on.
func (r *Relay) Leaving() context.Context { return r.leaving }

// Serve sets what answers the requests of other nodes. It is called before the node's Run.
func (r *Relay) Serve(h http.Handler) { r.serve = h }

// Pass passes a request on to the node with a tag, and its answer to w. The error says why there is no answer, or
// not all of it: engine.ErrNodeGone if no such node is alive. The request may have been served even so.
func (r *Relay) Pass(node string, w http.ResponseWriter, q *http.Request) error {
	if !r.passing.Begin() {
		return errLeft
	}
	defer r.passing.End()
	m, ok := r.member(q.Context(), node)
	if !ok {
		return engine.ErrNodeGone
	}
	body := make([]byte, q.ContentLength)
	if q.ContentLength > 0 {
		if _, err := io.ReadFull(q.Body, body); err != nil {
			return fmt.Errorf("relay: read the body: %w", err)
		}
	}
	if m.Peer != "" {
		if err := r.send(m, w, q, body); !errors.Is(err, errNotServed) {
			return err
		}
	}
	return r.throughBroker(node, w, q, body)
}

// throughBroker is Pass through the broker.
func (r *Relay) throughBroker(node string, w http.ResponseWriter, q *http.Request, body []byte) error {
	text, forget := r.encode(q, body)
	defer forget()
	for began := time.Now(); ; {
		err := r.ask(node, w, q, text)
		if !errors.Is(err, errNobody) {
			return err
		}
		if _, ok := r.member(q.Context(), node); !ok {
			return engine.ErrNodeGone
		}
		if time.Since(began) > retryTime {
			return err
		}
		select { // it is about to subscribe again
		case <-time.After(retryPause):
		case <-q.Context().Done():
			return q.Context().Err()
		}
	}
}

// member is the node with a tag, if it is on the list. A node that has just begun waits until it knows that.
func (r *Relay) member(ctx context.Context, node string) (cluster.Member, bool) {
	m, ok := r.node.Lookup(node)
	if !ok && errors.Is(r.node.Standing().Err, cluster.ErrIncomplete) {
		ctx, cancel := context.WithTimeout(ctx, joinTime)
		defer cancel()
		_, _ = r.node.AwaitMembers(ctx) // an error: the list is the best that there is
		m, ok = r.node.Lookup(node)
	}
	return m, ok
}
