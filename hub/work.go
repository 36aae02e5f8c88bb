package hub

import (
	"context"
	"sync/atomic"
)

// work counts the goroutines that run handlers, so that Run can wait for them. The zero value is
// ready to use.
type work struct {
	n       atomic.Int64
	ended   atomic.Bool
	drained atomic.Pointer[chan struct{}] // closed when n is 0 after ended
}

// begin counts one more. It reports false once end has been called; then nothing may be begun.
func (w *work) begin() bool {
	w.n.Add(1)
	if w.ended.Load() {
		w.done()
		return false
	}
	return true
}

func (w *work) done() {
	if w.n.Add(-1) == 0 && w.ended.Load() {
		if drained := w.drained.Swap(nil); drained != nil {
			close(*drained)
		}
	}
}

// end lets nothing begin any more and waits for what has begun, or for ctx.
func (w *work) end(ctx context.Context) error {
	drained := make(chan struct{})
	w.drained.Store(&drained)
	w.n.Add(1) // so that there is a last one to be done
	w.ended.Store(true)
	w.done()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
