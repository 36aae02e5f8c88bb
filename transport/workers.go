package transport

import "sync"

// workers call the receivers of WebSocket sessions. A goroutine that reads from a connection parses
// nothing and calls nobody, so that its stack stays as small as it began: an idle connection costs a
// stack, and a stack that has grown once stays grown. The reader waits for its worker, which makes
// the call part of reading, in order. On epoll a worker is the reader, from the first message that the
// loop finds until nothing more comes.
type workers struct {
	keep int // idle ones

	mu      sync.Mutex
	idle    []*worker // guarded by mu: the one that worked last is the last
	stopped bool      // guarded by mu

	done sync.WaitGroup
}

type worker struct {
	job  job // the caller's until it sends on jobs, and again once ok was received
	jobs chan struct{}
	ok   chan bool
}

// runner is a job that needs no answer.
type runner interface{ run() }

type job struct {
	runner           runner // or nil, and what follows
	s                *session
	text, compressed bool
	data             []byte
}

// get takes a worker. The caller sets its job, sends on jobs, receives from ok whether the session goes
// on, and puts the worker back.
func (ws *workers) get() *worker {
	ws.mu.Lock()
	n := len(ws.idle)
	if n == 0 {
		ws.mu.Unlock()
		return ws.hire()
	}
	w := ws.idle[n-1]
	ws.idle = ws.idle[:n-1]
	ws.mu.Unlock()
	return w
}

//go:noinline
func (ws *workers) hire() *worker {
	w := &worker{jobs: make(chan struct{}), ok: make(chan bool)}
	ws.done.Add(1)
	go ws.run(w) // stop waits for it
	return w
}

// hand has a worker do r. It reports whether one had to be hired.
func (ws *workers) hand(r runner) bool {
	ws.mu.Lock()
	hire := len(ws.idle) == 0
	ws.mu.Unlock()
	w := ws.get()
	w.job = job{runner: r}
	w.jobs <- struct{}{}
	return hire
}

func (ws *workers) put(w *worker) {
	ws.mu.Lock()
	keep := !ws.stopped && len(ws.idle) < ws.keep
	if keep {
		ws.idle = append(ws.idle, w)
	}
	ws.mu.Unlock()
	if !keep {
		close(w.jobs)
	}
}

func (ws *workers) run(w *worker) {
	defer ws.done.Done()
	for range w.jobs {
		if r := w.job.runner; r != nil {
			w.job = job{}
			r.run()
			ws.put(w)
			continue
		}
		ok := w.job.s.h.receive(w.job)
		w.job = job{}
		w.ok <- ok
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
