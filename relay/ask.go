package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"tether/cluster"
	"tether/engine"
)

var (
	errMalformed = errors.New("relay: what a node has sent cannot be read")
	errBody      = errors.New("relay: the body of a request is not there any more")

	// errLeft says that this node has ended.
	errLeft = errors.New("relay: this node has ended")

	// errNobody says that the broker has passed the request to nobody, although the node is alive.
	errNobody = errors.New("relay: the broker does not reach the node")
)

// encode returns a request as it is asked about, and what to call when it has been answered.
func (r *Relay) encode(q *http.Request, body []byte) (b []byte, forget func()) {
	in := request{method: q.Method, query: q.URL.RawQuery, header: q.Header, length: len(body), body: body}
	forget = func() {}
	if len(body) > maxInline {
		in.body, in.number = nil, r.numbers.Add(1)
		r.mu.Lock()
		r.bodies[in.number] = body
		r.mu.Unlock()
		forget = func() {
			r.mu.Lock()
			delete(r.bodies, in.number)
			r.mu.Unlock()
		}
	}
	return in.append(nil), forget
}

// ask has a node answer a request.
func (r *Relay) ask(node string, w http.ResponseWriter, q *http.Request, body []byte) error {
	asking := r.node.Ask(q.Context(), cluster.Question{Topic: topicRequest, Body: body, To: node, Once: true, Again: againTime})
	begun := false
	var err error
	for _, page := range asking.Pages {
		if !begun {
			var status int
			var header http.Header
			if status, header, page, err = parseHead(page); err != nil {
				break
			}
			for name, values := range header {
				w.Header()[name] = values
			}
			w.WriteHeader(status)
			begun = true
		}
		if len(page) > 0 {
			if _, err = w.Write(page); err != nil {
				break
			}
		}
	}
	switch missing := asking.Missing(); {
	case err != nil:
		return err
	case asking.Err() != nil:
		return fmt.Errorf("relay: %w", asking.Err())
	case len(missing) > 0 && errors.Is(missing[0].Why, cluster.ErrGone):
		return engine.ErrNodeGone
	case len(missing) > 0:
		return fmt.Errorf("relay: %w", missing[0].Why)
	case !begun:
		return errNobody
	}
	return nil
}

// answerBody sends the body of a request that this node has passed on.
func (r *Relay) answerBody(ctx context.Context, q *cluster.Request) error {
	number, ok := parseNumber(q.Body)
	r.mu.Lock()
	body := r.bodies[number]
	r.mu.Unlock()
	if !ok || body == nil {
		return errBody
	}
	for part := range slices.Chunk(body, chunk) {
		if err := q.Send(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// answer answers a request that another node has passed on.
func (r *Relay) answer(ctx context.Context, q *cluster.Request) (err error) {
	in, ok := parseRequest(q.Body)
	if !ok || r.serve == nil {
		return errMalformed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("relay: a request panicked: %T", v)
		}
	}()
	w := &answer{ctx: ctx, q: q, header: http.Header{}}
	req := &http.Request{
		Method: in.method, URL: &url.URL{Path: "/", RawQuery: in.query}, Header: in.header, ContentLength: int64(in.length),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	body := &pull{rest: in.body, length: in.length}
	if in.number != 0 {
		reading, stop := context.WithCancel(ctx)
		w.reading = deadline{do: stop}
		defer w.reading.set(time.Time{})
		defer stop()
		body.next, body.stop = iter.Pull(r.bodyOf(reading, q.Asker(), in.number))
		defer body.stop()
	}
	req.Body = io.NopCloser(body)
	r.serve.ServeHTTP(w, req.WithContext(ctx))
	return w.end()
}

// bodyOf yields the body of a request that is too long to come with it, as far as the node that asks sends it.
func (r *Relay) bodyOf(ctx context.Context, asker string, number uint64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		q := cluster.Question{Topic: topicBody, Body: appendNumber(nil, number), To: asker, Once: true}
		for _, page := range r.node.Ask(ctx, q).Pages {
			if !yield(page) {
				return
			}
		}
	}
}

// pull is the body of a request.
type pull struct {
	rest   []byte
	length int // that is still to come
	next   func() ([]byte, bool)
	stop   func()
}

func (p *pull) Read(b []byte) (int, error) {
	if p.length == 0 {
		return 0, io.EOF
	}
	if len(p.rest) == 0 && p.next != nil {
		p.rest, _ = p.next()
	}
	n := copy(b, p.rest[:min(len(p.rest), p.length)])
	p.rest, p.length = p.rest[n:], p.length-n
	if n == 0 && len(b) > 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

// answer is what a request is answered with: an [http.ResponseWriter] that knows the deadlines of
// [http.ResponseController].
type answer struct {
	ctx     context.Context // of the request: an answer lives in one call of Relay.answer
	q       *cluster.Request
	header  http.Header
	head    []byte // that was not sent yet
	begun   bool
	reading deadline

	writing time.Time // zero: no deadline
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if !a.begun {
		a.begun, a.head = true, appendHead(nil, status, a.header)
	}
}

// Write returns when the other node has taken what was written before.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	ctx := a.ctx
	if !a.writing.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, a.writing)
		defer cancel()
	}
	n := 0
	for part := range slices.Chunk(b, chunk) {
		if err := a.q.Send(ctx, append(a.head, part...)); err != nil {
			return n, err
		}
		a.head = nil
		n += len(part)
	}
	return n, nil
}

// end sends a head that has no body.
func (a *answer) end() error {
	a.WriteHeader(http.StatusOK)
	if a.head == nil {
		return nil
	}
	return a.q.Send(a.ctx, a.head)
}

// SetWriteDeadline bounds Write.
func (a *answer) SetWriteDeadline(t time.Time) error {
	a.writing = t
	return nil
}

// SetReadDeadline bounds the reading of a body that does not come with its request.
func (a *answer) SetReadDeadline(t time.Time) error {
	a.reading.set(t)
	return nil
}

// deadline calls do at a time, which may change. The zero value does nothing.
type deadline struct {
	do func() // immutable

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
}

func (d *deadline) set(t time.Time) {
	if d.do == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), d.do)
	}
}
