package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// tick is how often a worker tells how far it is; also how finely flat-out emitters are throttled.
const tick = 25 * time.Millisecond

// Work is a load process: it reads its options and then commands from in, as lines of JSON, and
// writes replies and a snapshot forty times a second to out. It returns when in ends or ctx is done,
// so that it never outlives the process that started it.
func Work(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	if !lines.Scan() {
		return errors.Join(errors.New("load: no options"), lines.Err())
	}
	var o Options
	if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
		return fmt.Errorf("load: options: %w", err)
	}
	o, err := o.Resolve()
	if err != nil {
		return err
	}
	l, err := New(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &work{loop: l, out: json.NewEncoder(out), settled: make(chan int, 8), cancel: cancel}
	var all sync.WaitGroup
	all.Go(func() { w.err = l.Run(ctx); cancel() })
	all.Go(func() { w.report(ctx) })
	go func() { // ends with in, which the process that started us closes; not waited for, because a read cannot be interrupted
		defer cancel()
		for lines.Scan() {
			if err := w.command(lines.Bytes()); err != nil {
				w.reply(reply{Err: err.Error()})
				return
			}
		}
	}()
	all.Wait()
	return w.err
}

type work struct {
	loop    *Loop
	settled chan int // numbers of commands that are done
	cancel  context.CancelFunc
	err     error // written before the wait group is done

	mu  sync.Mutex
	out *json.Encoder // guarded by mu
}

func (w *work) reply(r reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out.Encode(r) != nil {
		w.cancel() // nobody listens any more
	}
}

func (w *work) report(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-w.settled:
			w.snapshot(id)
		case <-t.C:
			w.snapshot(0)
		}
	}
}

func (w *work) snapshot(id int) {
	got := make(chan Snapshot, 1)
	if w.loop.Do(func() { got <- w.loop.snapshot() }) {
		s := <-got
		w.reply(reply{ID: id, Snapshot: &s})
	}
}

func (w *work) command(line []byte) error {
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		return fmt.Errorf("load: command: %w", err)
	}
	l := w.loop
	switch c.Op {
	case opGrow:
		l.Do(func() { l.Grow(c.N, func() { w.settled <- c.ID }) })
	case opWindow:
		l.Do(func() { l.window = [2]int64{c.From, c.To} })
	case opChurn:
		l.Do(func() { l.Churn(c.On) })
	case opEmit:
		l.Do(func() { l.Emit(*c.Emission) })
	case opReset:
		l.Do(func() { l.handshake.Reset() })
	case opResult:
		got := make(chan *Result, 1)
		if l.Do(func() { got <- l.result(c.Sent) }) {
			w.reply(reply{ID: c.ID, Result: <-got})
		}
	default:
		return fmt.Errorf("load: unknown command %q", c.Op)
	}
	return nil
}
