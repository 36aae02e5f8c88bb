package transport

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/engine"
)

// fates are what the watchers of packets were told, by name, in order.
type fates struct {
	mu  sync.Mutex
	all map[string][]engine.Outcome
}

func (f *fates) watch(p *engine.Packet, name string) *engine.Packet {
	p.SetWatcher(fate{f, name})
	return p
}

type fate struct {
	*fates
	name string
}

func (f fate) Routed(int) {}

func (f fate) Became(_ engine.Conn, o engine.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = make(map[string][]engine.Outcome)
	}
	f.all[f.name] = append(f.all[f.name], o)
}

// want waits until a packet has had these outcomes.
func (f *fates) want(t *testing.T, name string, want ...engine.Outcome) {
	t.Helper()
	f.await(t, name, want, func(got []engine.Outcome) bool { return slices.Equal(got, want) })
}

// wantLast waits until a packet has had this outcome last.
func (f *fates) wantLast(t *testing.T, name string, want engine.Outcome) {
	t.Helper()
	f.await(t, name, want, func(got []engine.Outcome) bool { return len(got) > 0 && got[len(got)-1] == want })
}

func (f *fates) await(t *testing.T, name string, want any, there func([]engine.Outcome) bool) {
	t.Helper()
	var got []engine.Outcome
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(time.Millisecond) {
		f.mu.Lock()
		got = slices.Clone(f.all[name])
		f.mu.Unlock()
		if there(got) {
			return
		}
	}
	t.Errorf("%s: told %v, want %v", name, got, want)
}

// TestWatchersAreToldWhatBecomesOfAPacket whatever policy it has, and whatever the others have: the table of policies
// says what arrives.
func TestWatchersAreToldWhatBecomesOfAPacket(t *testing.T) {
	for _, transport := range []string{Polling, WebSocket} {
		for _, row := range policies {
			if len(row.sends) > 100 {
				continue
			}
			t.Run(transport+"/"+row.name, func(t *testing.T) {
				testWatchers(t, transport, row.sends, row.want, row.refused, row.closed, row.configure)
			})
		}
	}
}

func testWatchers(t *testing.T, transport, sends, arrive, refused string, closed bool, configure engine.Overflow) {
	s := serve(t, Options{QueueBytes: 4000, Overflow: configure, WriteTimeout: wait})
	var next func() string
	if transport == Polling {
		next = s.stuckPolling()
	} else {
		next = s.stuckWebSocket()
	}
	e := s.session()
	fly(t, e)
	var f fates
	for word := range strings.FieldsSeq(sends) {
		var p testTerms
		p.parse(word)
		e.c.Send(f.watch(termed(p.name, 1000, p.t), p.name), nil)
	}
	if !closed {
		for range strings.Fields(arrive) {
			next()
		}
	}
	for word := range strings.FieldsSeq(sends) {
		var p testTerms
		p.parse(word)
		f.mu.Lock()
		got := slices.Clone(f.all[p.name])
		f.mu.Unlock()
		switch {
		case slices.Contains(strings.Fields(refused), p.name):
			if len(got) != 1 || got[0] != engine.DroppedNewest && (got[0] != engine.TooSlow || !closed) {
				t.Errorf("%s was refused; told %v", p.name, got)
			}
		case closed && slices.Equal(got, []engine.Outcome{engine.Queued, engine.Lost}):
		case slices.Contains(strings.Fields(arrive), p.name):
			f.want(t, p.name, engine.Queued, engine.Written)
		case len(got) != 2 || got[0] != engine.Queued || got[1] != engine.DroppedOldest && got[1] != engine.Replaced:
			t.Errorf("%s does not arrive; told %v", p.name, got)
		}
	}
}

// TestWatchersAreToldOfWhatIsWrittenAtOnceAndOfWhatIsLost on both carriers.
func TestWatchersAreToldOfWhatIsWrittenAtOnceAndOfWhatIsLost(t *testing.T) {
	for _, epoll := range []bool{false, true} {
		var f fates
		s := serve(t, Options{Epoll: epoll, QueueBytes: 64 << 20, WriteTimeout: wait})
		ws := s.websocket()
		e := s.session()
		e.c.Send(f.watch(engine.NewPacket(engine.Terms{}, []byte("4alone")), "alone"), nil)
		ws.wantText("4alone")
		f.wantLast(t, "alone", engine.Written)
		e.c.Send(f.watch(engine.NewPacket(engine.Terms{}, []byte("4"+strings.Repeat("x", 16<<20))), "large"), nil)
		e.c.Send(f.watch(engine.NewPacket(engine.Terms{Volatile: true}, []byte("4v")), "volatile"), nil)
		e.c.Send(f.watch(engine.NewPacket(engine.Terms{}, []byte("4behind")), "behind"), nil)
		f.want(t, "volatile", engine.NotReady)
		f.want(t, "behind", engine.Queued)
		ws.conn.Close()
		f.want(t, "behind", engine.Queued, engine.Lost)
		f.wantLast(t, "large", engine.Lost)
	}
}
