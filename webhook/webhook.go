// Package webhook tells another program over HTTP who comes and goes: signed, in batches, and again until it is taken.
//
//	hooks, err := webhook.New(h, webhook.Options{URL: "https://app.example.com/hooks", Keys: []string{key}})
//
// It is made before Run of the hub, which runs it too, on all nodes. It makes the presence of the hub, so the hub must
// not have one.
//
// # What is sent
//
// A POST with {"events":[…]}, see [Event], signed as [SignatureHeader] says; the program checks it with [Verify]. It
// answers with 2xx when it has taken all of them. Any other answer, or none, and the same events come again.
//
// There is one Connect and one Disconnect for each connection of a socket that is registered for a user, one Online and one
// Offline for each change of a user, on whichever node they are told: also when a node crashes. The events of one user come
// in order. With hub.Recovery a session has one of each for every connection, with the same socket, and one Expired when it
// ends because its client has not come back, also when its node crashes. When a node dies while it waits for an answer,
// another one tells the events again, with the same ID: so drop an ID that has been seen. Nothing else makes it necessary to
// look at IDs but a batch whose answer was lost.
//
// # What is lost
//
// An event is given up when it has been sent, and has not been taken for Options.Patience. Younger ones that were sent with
// it go on. It is counted in Stats.Dropped, and the log says how many were. While the other program is away, at most
// Options.Queue events of a node wait for it in here; what happens meanwhile waits in the presence of its users, who are told
// about in order. A node that ends gives up what the other program has not taken within five seconds.
package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"tether/hub"
	"tether/presence"
)

// The types of events.
const (
	Connect    = "connect"    // a socket has been registered for a user, or is connected again
	Disconnect = "disconnect" // and its connection has ended
	Online     = "online"     // a user has the first device
	Offline    = "offline"    // and has none any more, when the grace is over
	Expired    = "expired"    // a client has not come back to its session; see hub.Recovery
)

// Event is what has happened.
type Event struct {
	ID        string    `json:"id"` // different for each event, the same when it is told again
	Type      string    `json:"type"`
	Time      time.Time `json:"time"` // when it was told first by this node
	Namespace string    `json:"namespace"`
	User      string    `json:"user,omitempty"`   // with its kind: "user:42"
	Socket    string    `json:"socket,omitempty"` // of Connect, Disconnect and Expired, and so is the next one
	Node      string    `json:"node,omitempty"`   // that the socket is or was on
	Reason    string    `json:"reason,omitempty"` // of Expired; of Disconnect "node gone" if the node was given up
}

// Options of a Sender. URL and Keys are needed; any other field that is zero has its default.
type Options struct {
	// URL is where events are sent.
	URL string

	// Keys sign each request, all of them. To change a key, add the new one, have the other program check with
	// it, and take the old one away.
	Keys []string

	// Grace is that of [presence.Options].
	Grace time.Duration

	// Batch is how many events there are in a request at most, and Wait how long the first one waits for others.
	// Defaults 100 and 50 ms.
	Batch int
	Wait  time.Duration

	// Queue is how many events wait at most. Default 1000.
	Queue int

	// Timeout is how long an answer may take, and Patience for how long events are sent again: after a second at first,
	// and up to a minute later. Defaults 10 s and 15 min.
	Timeout, Patience time.Duration

	// Client sends the requests. Default: one that follows no redirects.
	Client *http.Client

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// Stats are figures of a Sender. All but Waiting count since New.
type Stats struct {
	Waiting int    // events, now
	Sent    uint64 // events that were taken
	Dropped uint64 // events that were given up
	Failed  uint64 // requests that were not answered with 2xx
}

// Sender is one node's part.
type Sender struct {
	o   Options // immutable, with defaults
	log *slog.Logger

	queue chan *waiting
	last  <-chan struct{} // closed when nothing comes any more
	over  chan struct{}   // closed when nothing is sent any more

	waits                 atomic.Int64
	sent, dropped, failed atomic.Uint64
}

// waiting is an event on its way.
type waiting struct {
	Event
	since   time.Time
	claimed atomic.Bool   // by the one that finishes it
	done    chan struct{} // closed when it was taken, or given up
}

const (
	firstPause = time.Second
	lastPause  = time.Minute
	endLimit   = 5 * time.Second // for what waits when the node ends
)

// New returns the sender of a hub.
func New(h *hub.Hub, o Options) (*Sender, error) {
	s, err := newSender(o)
	if err != nil {
		return nil, err
	}
	p, err := presence.New(h, presence.Options{
		Grace: o.Grace, Workers: s.o.Queue, Logger: s.o.Logger,
		OnChange: func(ctx context.Context, e presence.Event) {
			what := Offline
			if e.Online {
				what = Online
			}
			s.deliver(ctx, Event{ID: e.ID, Type: what, Namespace: e.Namespace, User: e.User.String()})
		},
		OnDevice: func(ctx context.Context, e presence.DeviceEvent) {
			out := Event{ID: e.ID, Type: Connect, Namespace: e.Namespace, User: e.User.String(), Socket: e.Socket, Node: e.Node.Name}
			if e.Gone {
				out.Type = Disconnect
			}
			switch {
			case e.Expired != "":
				out.Type, out.Reason = Expired, string(e.Expired)
			case e.NodeGone:
				out.Reason = "node gone"
			}
			s.deliver(ctx, out)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	s.last = p.Done()
	h.Emitter().Cluster().Attach(s)
	return s, nil
}

func newSender(o Options) (*Sender, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("webhook: Options.URL is not an address; https://app.example.com/hooks is right")
	}
	if len(o.Keys) == 0 {
		return nil, errors.New("webhook: Options.Keys is empty: without a signature anybody could send the same")
	}
	for _, k := range o.Keys {
		if len(k) < 16 {
			return nil, errors.New("webhook: a key of Options.Keys is shorter than 16 characters")
		}
	}
	if o.Batch < 0 || o.Wait < 0 || o.Queue < 0 || o.Timeout < 0 || o.Patience < 0 {
		return nil, errors.New("webhook: no option may be negative but Grace")
	}
	def := func(v *int, is int) {
		if *v == 0 {
			*v = is
		}
	}
	last := func(d *time.Duration, is time.Duration) {
		if *d == 0 {
			*d = is
		}
	}
	def(&o.Batch, 100)
	def(&o.Queue, 1000)
	last(&o.Wait, 50*time.Millisecond)
	last(&o.Timeout, 10*time.Second)
	last(&o.Patience, 15*time.Minute)
	if o.Client == nil {
		o.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Sender{o: o, log: o.Logger, queue: make(chan *waiting, o.Queue), over: make(chan struct{})}, nil
}

func (s *Sender) waiting(e Event) *waiting {
	s.waits.Add(1)
	e.Time = time.Now().UTC()
	return &waiting{Event: e, since: time.Now(), done: make(chan struct{})}
}

// deliver returns when the event was taken, or given up: until then, the presence tells it again on another node
// should this one die.
func (s *Sender) deliver(ctx context.Context, e Event) {
	w := s.waiting(e)
	queue := s.queue
	for {
		select {
		case queue <- w:
			queue = nil
			continue
		case <-w.done:
			return
		case <-ctx.Done():
		case <-s.over:
		}
		if w.claimed.CompareAndSwap(false, true) {
			s.giveUp("this node has ended", w)
			return
		}
		<-w.done // it is being sent
		return
	}
}

// Stats reads all figures.
func (s *Sender) Stats() Stats {
	return Stats{Waiting: int(s.waits.Load()), Sent: s.sent.Load(), Dropped: s.dropped.Load(), Failed: s.failed.Load()}
}

// giveUp drops events.
func (s *Sender) giveUp(why string, events ...*waiting) {
	s.dropped.Add(uint64(len(events)))
	s.log.Error("events are lost that were for the webhook", "events", len(events), "first", events[0].ID, "cause", why)
	s.finish(events)
}

func (s *Sender) finish(events []*waiting) {
	s.waits.Add(-int64(len(events)))
	for _, w := range events {
		close(w.done)
	}
}

// Run implements [tether/cluster.Service]: the hub calls it. When ctx is done, what waits has five seconds.
func (s *Sender) Run(ctx context.Context) {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	gathering, enough := context.WithCancel(sending)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-sending.Done():
			return
		}
		limit := time.After(endLimit)
		select {
		case <-s.last: // the presence may still tell of users that have gone
			enough()
		case <-limit:
			stop()
		}
		select {
		case <-limit:
			stop()
		case <-sending.Done():
		}
	})
	for batch := s.gather(gathering); len(batch) > 0; batch = s.gather(gathering) {
		s.send(sending, batch)
	}
	close(s.over)
	for {
		select {
		case w := <-s.queue:
			if w.claimed.CompareAndSwap(false, true) {
				s.giveUp("this node has ended", w)
			}
		default:
			return
		}
	}
}

// gather waits for an event, and for others that come soon after it. There is none when ctx is done, and nothing
// waits.
func (s *Sender) gather(ctx context.Context) (batch []*waiting) {
	take := func(w *waiting) {
		if w.claimed.CompareAndSwap(false, true) {
			batch = append(batch, w)
		}
	}
	for len(batch) == 0 {
		select {
		case w := <-s.queue:
			take(w)
			continue
		default:
		}
		select {
		case w := <-s.queue:
			take(w)
		case <-ctx.Done():
			return nil
		}
	}
	enough := time.NewTimer(s.o.Wait)
	defer enough.Stop()
	for len(batch) < s.o.Batch {
		select {
		case w := <-s.queue:
			take(w)
		case <-enough.C:
			return batch
		}
	}
	return batch
}

// send sends a batch until it is taken, or sending is done. Events that have waited for too long are given up, and the others
// go on.
func (s *Sender) send(sending context.Context, batch []*waiting) {
	for pause := firstPause; len(batch) > 0; pause = min(2*pause, lastPause) {
		err := s.post(sending, batch)
		if err == nil {
			s.sent.Add(uint64(len(batch)))
			s.finish(batch)
			return
		}
		s.failed.Add(1)
		s.log.Warn("the webhook has not taken events; they are sent again", "events", len(batch), "error", err)
		select {
		case <-time.After(pause/2 + rand.N(pause/2)): // not all nodes at once
			batch = s.giveUpOld(batch, err)
		case <-sending.Done():
			s.giveUp("this node has ended: "+err.Error(), batch...)
			return
		}
	}
}

// giveUpOld drops the events that have waited for longer than Options.Patience, and returns the others.
func (s *Sender) giveUpOld(batch []*waiting, err error) (young []*waiting) {
	var old []*waiting
	for _, w := range batch {
		if time.Since(w.since) > s.o.Patience {
			old = append(old, w)
		} else {
			young = append(young, w)
		}
	}
	if len(old) > 0 {
		s.giveUp(err.Error(), old...)
	}
	return young
}

// post sends one request.
func (s *Sender) post(ctx context.Context, batch []*waiting) error {
	events := make([]Event, len(batch))
	for i, w := range batch {
		events[i] = w.Event
	}
	body, err := json.Marshal(map[string][]Event{"events": events})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.URL, bytes.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(SignatureHeader, sign(s.o.Keys, time.Now(), body))
	answer, err := s.o.Client.Do(r)
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection is used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %d", answer.StatusCode)
	}
	return nil
}

// withoutURL drops what may hold a secret.
func withoutURL(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}
