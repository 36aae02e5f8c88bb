package transport

import "sync"

// workers call the receivers of WebSocket sessions. A goroutine that reads from a connection parses
// nothing and calls nobody, so that its stack stays as small as it began: an idle connection costs a
// stack, and a stack that has grown once stays grown. The reader waits for its worker, which makes
// the call part of reading, in order.
type workers struct {
	keep int // idle ones

	mu      sync.Mutex
	idle    []*worker // guarded by mu
	stopped bool      // guarded by mu

	done sync.WaitGroup
}

type worker struct {
	jobs chan job
	ok   chan bool
}

type job struct {
	s                *session
	text, compressed bool
	data             []byte
}

// do runs j and returns what it returns: whether the session goes on.
func (ws *workers) do(j job) bool {
	w := ws.get()
	w.jobs <- j
	ok := <-w.ok
	ws.put(w)
	return ok
}

func (ws *workers) get() *worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if n := len(ws.idle); n > 0 {
		w := ws.idle[n-1]
		ws.idle = ws.idle[:n-1]
		return w
	}
	w := &worker{jobs: make(chan job), ok: make(chan bool)}
	ws.done.Add(1)
	go ws.run(w) // stop waits for it
	return w
}

func (ws *workers) put(w *worker) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.stopped || len(ws.idle) >= ws.keep {
		close(w.jobs)
		return
	}
	ws.idle = append(ws.idle, w)
}

func (ws *workers) run(w *worker) {
	defer ws.done.Done()
	for j := range w.jobs {
		w.ok <- j.s.h.receive(j)
	}
}

// stop ends the workers. All readers must have ended.
func (ws *workers) stop() {
	ws.mu.Lock()
	ws.stopped = true
	for _, w := range ws.idle {
		close(w.jobs)
	}
	ws.idle = nil
	ws.mu.Unlock()
	ws.done.Wait()
}
