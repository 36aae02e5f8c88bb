package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tether/hub"
)

// posted is an event, and posting how it is emitted.
type posted struct {
	Number    uint64 `json:"number"`
	stream    string
	by        string
	namespace string
	to        []string
	except    []string
	volatile  bool
	began     moment

	mu     sync.Mutex
	done   moment // guarded by mu; since when the broker has it
	failed bool   // guarded by mu
}

func (p *posted) String() string {
	return fmt.Sprintf("event %d of %s to %q (%v)", p.Number, p.by, p.to, p.began.at.Format("04:05.0000"))
}

func (p *posted) doneAt() moment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

func (p *posted) hasFailed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

type posting struct {
	w          *recoveringWorld
	by         string
	namespace  string
	to, except []string
	binary     bool
	volatile   bool
	size       int
	asks       bool // where clients are connected
	emitter    *hub.Emitter
	socket     *hub.Socket // instead of the emitter
}

// emit emits one event, after those of its stream before it.
func (p *posting) emit() {
	w := p.w
	e := &posted{by: p.by, namespace: p.namespace, to: p.to, except: p.except, volatile: p.volatile}
	if len(p.to) == 1 {
		e.stream = p.by + "," + p.namespace + "," + p.to[0]
	}
	token := w.token(p.by + "," + p.namespace + "," + strings.Join(p.to, ","))
	token <- struct{}{}
	defer func() { <-token }()
	e.began = w.now()
	e.Number = uint64(e.began.n)
	w.mu.Lock()
	w.numbers[e.Number] = e
	if e.stream != "" {
		w.events[e.stream] = append(w.events[e.stream], e)
	}
	w.mu.Unlock()
	args := []any{e, strings.Repeat("x", p.size)}
	if p.binary {
		text, _ := json.Marshal(e.Number)
		args = append(args, hub.Binary(text))
	}
	err := p.send(e, args)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done, e.failed = w.now(), err != nil
}

// errUnplaced is for an event to a single socket of which the broker cannot say whether the node that its ID names
// has it: if that is gone, nobody has.
var errUnplaced = errors.New("sim: nobody knows where the event is")

func (p *posting) send(posted *posted, args []any) error {
	if p.socket != nil {
		return p.socket.Emit("n", args...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e := p.emitter
	for _, r := range p.except {
		e = e.Except(target(r))
	}
	if p.volatile {
		e = e.Volatile()
	}
	if p.asks {
		e = e.AskLive()
	}
	var r hub.Receipt
	var err error
	if len(p.to) == 1 {
		r, err = e.Emit(ctx, target(p.to[0]), "n", args...)
		if err == nil && target(p.to[0]) == hub.SocketID(p.to[0]) && r.Nodes == 0 && !r.Nobody() {
			err = errUnplaced
		}
	} else {
		var to []hub.Target
		for _, r := range p.to {
			to = append(to, target(r))
		}
		r, err = e.EmitUnion(ctx, to, "n", args...)
	}
	if p.asks && err == nil {
		p.w.judge(posted, r)
	}
	return err
}
