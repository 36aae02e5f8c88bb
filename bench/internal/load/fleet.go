package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"tether/bench/internal/check"
)

// Process is a load process as its owner sees it: something that runs [Work]. Closing In ends it.
type Process struct {
	In  io.WriteCloser
	Out io.Reader
	End func() // waits for the process, after In was closed
}

// Fleet is several load processes that look like one.
type Fleet struct {
	members []*member
	conns   int
	reader  sync.WaitGroup // reads what the members say
}

type member struct {
	Process
	conns int
	out   *json.Encoder
	mu    sync.Mutex           // guards what follows; also keeps commands whole
	id    int                  // of the last command
	wait  map[int]chan<- reply // by command
	dead  error                // why it can answer no more
	last  atomic.Pointer[Snapshot]
}

// NewFleet divides o over as many processes as are needed for perProcess connections each, and
// starts each with start.
func NewFleet(o Options, perProcess int, start func() (Process, error)) (*Fleet, error) {
	n := max((o.Conns+perProcess-1)/perProcess, 1)
	f := &Fleet{conns: o.Conns}
	first := o.First
	for i := range n {
		part := o
		part.Conns = o.Conns*(i+1)/n - o.Conns*i/n
		part.First = first
		first += part.Conns
		part.InFlight = max(orInt(o.InFlight, 128)/n, 1)
		part.Rate = o.Rate / float64(n)
		part.Source = o.Source + uint32(i*(perProcess/perSourceAddress+1))
		p, err := start()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("load: start process %d of %d: %w", i+1, n, err)
		}
		m := &member{Process: p, conns: part.Conns, out: json.NewEncoder(p.In), wait: map[int]chan<- reply{}}
		f.members = append(f.members, m)
		f.reader.Go(m.read)
		if err := m.out.Encode(part); err != nil {
			f.Close()
			return nil, fmt.Errorf("load: start process %d of %d: %w", i+1, n, err)
		}
	}
	return f, nil
}

// perSourceAddress must not exceed what the loop puts on a source address.
const perSourceAddress = 15_000

// Close ends the processes and with them the connections.
func (f *Fleet) Close() {
	for _, m := range f.members {
		m.In.Close() // an error means that it has ended already
	}
	for _, m := range f.members {
		m.End()
	}
	f.reader.Wait()
}

func (m *member) read() {
	lines := bufio.NewScanner(m.Out)
	lines.Buffer(nil, 64<<20)
	err := errors.New("load: a load process ended")
	for lines.Scan() {
		var r reply
		if e := json.Unmarshal(lines.Bytes(), &r); e != nil {
			err = fmt.Errorf("load: a load process said something strange: %w", e)
			break
		}
		if r.Snapshot != nil {
			m.last.Store(r.Snapshot)
		}
		if r.Err != "" {
			err = errors.New(r.Err)
		}
		if r.ID != 0 {
			m.mu.Lock()
			c := m.wait[r.ID]
			delete(m.wait, r.ID)
			m.mu.Unlock()
			if c != nil {
				c <- r // has room for the only answer
			}
		}
	}
	m.mu.Lock()
	m.dead = err
	for id, c := range m.wait {
		close(c)
		delete(m.wait, id)
	}
	m.mu.Unlock()
}

// tell sends a command; the answer, or the end of the process, comes on the channel.
func (m *member) tell(c command) (<-chan reply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead != nil {
		return nil, m.dead
	}
	m.id++
	c.ID = m.id
	answer := make(chan reply, 1)
	if c.Op == opGrow || c.Op == opResult {
		m.wait[c.ID] = answer
	}
	if err := m.out.Encode(c); err != nil { // a pipe to a process that reads all the time
		return nil, fmt.Errorf("load: %w", err)
	}
	return answer, nil
}

func (m *member) why() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// each sends a command to every process and waits for all the answers when get is not nil.
func (f *Fleet) each(ctx context.Context, make func(i int, m *member) command, get func(reply)) error {
	answers := []<-chan reply{}
	for i, m := range f.members {
		c, err := m.tell(make(i, m))
		if err != nil {
			return err
		}
		answers = append(answers, c)
	}
	if get == nil {
		return nil
	}
	for i, c := range answers {
		select {
		case r, ok := <-c:
			if !ok {
				return f.members[i].why()
			}
			get(r)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Grow opens connections until there are n, and waits until the last handshake has ended. That some
// of them failed is not an error; the snapshot tells.
func (f *Fleet) Grow(ctx context.Context, n int) error {
	return f.each(ctx, func(i int, m *member) command {
		return command{Op: opGrow, N: n*(i+1)/len(f.members) - n*i/len(f.members)}
	}, func(reply) {})
}

// Window counts what is received from and before to, on the clock.
func (f *Fleet) Window(from, to int64) error {
	return f.each(context.Background(), func(int, *member) command { return command{Op: opWindow, From: from, To: to} }, nil)
}

// Churn lets the connections that are meant to leave and come back do so, or no longer.
func (f *Fleet) Churn(on bool) error {
	return f.each(context.Background(), func(int, *member) command { return command{Op: opChurn, On: on} }, nil)
}

// Reset forgets how long the handshakes so far have taken.
func (f *Fleet) Reset() error {
	return f.each(context.Background(), func(int, *member) command { return command{Op: opReset} }, nil)
}

// Emit makes the clients emit. The rate is of all processes together; each has a publisher number
// of its own, from e.Publisher up.
func (f *Fleet) Emit(e Emission) error {
	return f.each(context.Background(), func(i int, m *member) command {
		part := e
		part.Publisher += uint16(i)
		part.Rate = e.Rate * float64(m.conns) / float64(max(f.conns, 1))
		return command{Op: opEmit, Emission: &part}
	}, nil)
}

// Snapshot is how far all are.
func (f *Fleet) Snapshot() (s Snapshot) {
	for _, m := range f.members {
		if last := m.last.Load(); last != nil {
			s.Add(*last)
		}
	}
	return s
}

// Err is why a process ended, nil while all run.
func (f *Fleet) Err() error {
	for _, m := range f.members {
		if err := m.why(); err != nil {
			return err
		}
	}
	return nil
}

// Result settles with what the publishers say they sent, and merges what all clients saw.
func (f *Fleet) Result(ctx context.Context, sent []check.Sent) (*Result, error) {
	var all Result
	err := f.each(ctx, func(int, *member) command { return command{Op: opResult, Sent: sent} }, func(r reply) {
		if r.Result != nil {
			all.Merge(r.Result)
		}
	})
	return &all, err
}
