package relay

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"tether/broker/seal"
	"tether/cluster"
	"tether/engine"
)

// Path is where a server serves its relay for other nodes: below the URL that is Options.Peer.
const Path = "/tether-relay"

// nodeHeader names the node that a request is for, and the one that has answered it: an address may have become that of
// another node.
const nodeHeader = "Tether-Node"

const endPause = 10 * time.Millisecond // between two looks whether a call is still under way

const (
	dialTime   = 2 * time.Second
	idleTime   = 90 * time.Second // of a connection that is kept, less than servers keep theirs
	idleConns  = 64               // that are kept to each node
	kernelSize = 64 << 10         // of the buffer for what comes, so that a client that reads slowly is noticed at the owner
)

// methodPoll is a GET on its way between two nodes. One that is called GET is sent again by net/http when its connection
// ends, and would take what comes next: the answer that was lost is lost in secret.
const methodPoll = "POLL"

// errNotServed says that a request was not served over HTTP, for certain.
var errNotServed = errors.New("relay: the node does not take requests over HTTP")

// passedBack are the headers of an answer that the client gets.
var passedBack = []string{"Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Retry-After"}

func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: dialTime}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if t, ok := c.(*net.TCPConn); ok {
				_ = t.SetReadBuffer(kernelSize) // an error says that the connection has gone, and so does the first read
			}
			return c, err
		},
		TLSHandshakeTimeout: dialTime,
		DisableCompression:  true, // the client says what it takes
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     idleTime,
	}
}

// call is a request on its way to another node.
type call struct {
	node   string
	cancel context.CancelCauseFunc
}

// send has a node answer a request over HTTP. The error is errNotServed if it has certainly not been served.
func (r *Relay) send(m cluster.Member, w http.ResponseWriter, q *http.Request, body []byte) error {
	ctx, cancel := context.WithCancelCause(q.Context())
	defer cancel(nil)
	c := &call{m.Tag, cancel}
	r.mu.Lock()
	r.calls[c] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.calls, c)
		r.mu.Unlock()
	}()
	if _, ok := r.node.Lookup(m.Tag); !ok { // it has gone before the call was noted
		return engine.ErrNodeGone
	}
	method := q.Method
	if method == http.MethodGet {
		method = methodPoll
	}
	out, err := http.NewRequestWithContext(ctx, method, m.Peer+Path+"?"+q.URL.RawQuery, bytes.NewReader(body))
	if err != nil {
		return errNotServed // of a URL that is none
	}
	out.Header = q.Header.Clone()
	out.Header.Set(nodeHeader, m.Tag)
	if key := r.o.Keys.Current; key != (seal.Key{}) && r.o.Keys.Plain != seal.SendPlain {
		out.Header.Set("Authorization", bearer(key))
	}
	res, err := r.http.RoundTrip(out)
	if err != nil {
		return r.failed(ctx, err)
	}
	defer res.Body.Close()
	switch by := res.Header.Get(nodeHeader); {
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusMisdirectedRequest:
		return errNotServed
	case by != m.Tag:
		return fmt.Errorf("relay: status %d of another program at %s", res.StatusCode, m.Peer)
	}
	for _, name := range passedBack {
		if v := res.Header[name]; len(v) > 0 {
			w.Header()[name] = v
		}
	}
	w.WriteHeader(res.StatusCode)
	if _, err := io.Copy(w, res.Body); err != nil {
		return r.failed(ctx, err)
	}
	return nil
}

// failed is why a call has failed.
func (r *Relay) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, engine.ErrNodeGone) {
		return cause
	}
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" && ctx.Err() == nil {
		return errNotServed
	}
	return fmt.Errorf("relay: %w", err)
}

// Run is called by the node's. It ends the calls to nodes that have gone, and before the node ends waits for those that are
// under way: the answer of one that is lost with this node is lost for its client.
func (r *Relay) Run(ctx context.Context) {
	defer r.http.CloseIdleConnections()
	defer r.end()
	for {
		changed := r.node.Changed()
		r.cancelGone()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Relay) end() {
	r.leave()
	ticker := time.NewTicker(endPause)
	defer ticker.Stop()
	for deadline := time.Now().Add(leaveTime); r.passing.Len() > 0 && time.Now().Before(deadline); {
		<-ticker.C
	}
	r.passing.Close()
}

// cancelGone ends the calls to nodes that are off the list.
func (r *Relay) cancelGone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.calls {
		if _, ok := r.node.Lookup(c.node); !ok {
			c.cancel(engine.ErrNodeGone)
		}
	}
}

// ServeHTTP answers a request that another node has passed on.
func (r *Relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	switch {
	case !r.trusts(q.Header.Get("Authorization")):
		http.Error(w, "another key, or none", http.StatusUnauthorized)
	case q.Header.Get(nodeHeader) != r.node.Tag():
		http.Error(w, "this is another node", http.StatusMisdirectedRequest)
	case r.serve == nil:
		http.NotFound(w, q)
	case q.Method == methodPoll:
		q.Method = http.MethodGet
		r.answerHTTP(w, q)
	case q.Method != http.MethodGet && q.Method != http.MethodPost && !r.proves(q.Header.Get("Authorization")):
		http.NotFound(w, q) // what nodes want by themselves says what a client does not know: they ask through the broker
	default:
		r.answerHTTP(w, q)
	}
}

func (r *Relay) answerHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set(nodeHeader, r.node.Tag())
	r.serve.ServeHTTP(w, q)
}

// trusts reports whether a node may say that, as a message of the broker may.
func (r *Relay) trusts(authorization string) bool {
	k := r.o.Keys
	return k.Current == (seal.Key{}) || k.Plain != seal.RefusePlain && authorization == "" || r.proves(authorization)
}

// proves reports whether a node has shown that it has the key.
func (r *Relay) proves(authorization string) bool {
	k := r.o.Keys
	if k.Current == (seal.Key{}) {
		return false
	}
	for _, key := range append([]seal.Key{k.Current}, k.Accept...) {
		if hmac.Equal([]byte(authorization), []byte(bearer(key))) {
			return true
		}
	}
	return false
}

// bearer proves that a node has the key, to others that have it, and gives nothing away of it.
func bearer(key seal.Key) string {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte("tether: relay"))
	return "Bearer " + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
