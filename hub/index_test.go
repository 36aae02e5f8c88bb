package hub

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func members(r *room) []*Socket { return slices.Collect(r.each) }

func TestIndexFindsTheMembersOfARoom(t *testing.T) {
	x := newIndex()
	sockets := make([]*Socket, 100)
	places := make([]membership, len(sockets))
	for i := range sockets {
		sockets[i] = new(Socket)
		places[i], _ = x.join("room", sockets[i])
	}
	if got := members(x.lookup("room")); !slices.Equal(got, sockets) {
		t.Fatalf("%d members in another order or number than the %d that joined", len(got), len(sockets))
	}
	for i := 0; i < len(sockets); i += 2 {
		x.leave(places[i])
	}
	if got := len(members(x.lookup("room"))); got != 50 {
		t.Fatalf("%d members after half have left, want 50", got)
	}
	again, _ := x.join("room", sockets[0])
	if again.place >= uint32(len(sockets)) {
		t.Errorf("a place that was given back is not used again: got place %d", again.place)
	}
	if got := members(x.lookup("other")); got != nil {
		t.Errorf("room that nobody joined has %d members", len(got))
	}
}

func TestIndexMarksARoomOnceUntilItIsLookedAt(t *testing.T) {
	x := newIndex()
	a, edge := x.join("room", new(Socket))
	if !edge {
		t.Error("first join is no edge")
	}
	b, edge := x.join("room", new(Socket))
	if edge {
		t.Error("second join is an edge although the room is queued")
	}
	if x.leave(a) || x.leave(b) {
		t.Error("a leave is an edge although the room is queued")
	}
}

func TestIndexForgetsRooms(t *testing.T) {
	x := newIndex()
	const n = 10_000
	for round := range 3 {
		for i := range n {
			m, _ := x.join(fmt.Sprint("room", i), new(Socket))
			if round < 2 {
				x.leave(m)
				sh := x.shard(m.room)
				sh.mu.Lock()
				x.forgetLocked(sh, m.room)
				sh.mu.Unlock()
			}
		}
	}
	if got := x.rooms(); got != n {
		t.Errorf("%d rooms, want %d", got, n)
	}
	slots := 0
	for i := range x.shards {
		slots += bucketSize * len(*x.shards[i].table.Load())
	}
	if slots > 4*n {
		t.Errorf("%d slots for %d rooms: those that are gone are not cleaned away", slots, n)
	}
}

// A walk that runs while others come and go must see each member that stays, once.
func TestReadersSeeEveryMemberThatStays(t *testing.T) {
	x := newIndex()
	stay := make([]*Socket, 40)
	var flap []membership
	for i := range stay {
		m, _ := x.join("room", new(Socket))
		flap = append(flap, m)
		stay[i] = new(Socket)
		x.join("room", stay[i])
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer done.Store(true)
		for range 20_000 {
			i := rand.IntN(len(flap))
			x.leave(flap[i])
			flap[i], _ = x.join("room", new(Socket))
		}
	})
	for !done.Load() {
		seen := map[*Socket]int{}
		for s := range x.lookup("room").each {
			seen[s]++
		}
		for i, s := range stay {
			if seen[s] != 1 {
				t.Errorf("member %d that stays was seen %d times", i, seen[s])
			}
		}
		runtime.Gosched()
	}
	wg.Wait()
}

func TestIndexKeepsNamesOfAnyLength(t *testing.T) {
	x := newIndex()
	for n := range 200 {
		name := []byte(strings.Repeat("n", n))
		x.join(string(name), new(Socket))
		r := x.lookup(string(name))
		if r == nil || r.subject != string(name) || r.n != 1 {
			t.Fatalf("a room whose name has %d bytes is not found", n)
		}
	}
}

// Rooms that stay are found while others come and go, and tables with them.
func TestReadersFindEveryRoomThatStays(t *testing.T) {
	x := newIndex()
	const stay = 2_000
	names := make([]string, stay)
	for i := range names {
		names[i] = fmt.Sprint("stays", i)
		x.join(names[i], new(Socket))
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for writer := range 2 {
		wg.Go(func() {
			for range 10 {
				var came []membership
				for i := range 2_000 {
					m, _ := x.join(fmt.Sprint("flaps", writer, i), new(Socket))
					came = append(came, m)
				}
				for _, m := range came {
					x.leave(m)
					sh := x.shard(m.room)
					sh.mu.Lock()
					x.forgetLocked(sh, m.room)
					sh.mu.Unlock()
				}
			}
		})
	}
	go func() { wg.Wait(); done.Store(true) }() // ends when the writers have, which the loop waits for
	for !done.Load() {
		for _, name := range names {
			if r := x.lookup(name); r == nil || r.subject != name {
				t.Fatalf("%s is not found", name)
			}
		}
	}
	if got := x.rooms(); got != stay {
		t.Errorf("%d rooms are left, want %d", got, stay)
	}
}

// Rooms are looked up in random order. What is looked up has just been read from the broker, so it is
// in the cache; what the index keeps is not.
func BenchmarkIndexLookup(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("rooms=%d", n), func(b *testing.B) {
			var text strings.Builder
			subjects := make([]string, n)
			for i, user := range rand.Perm(n) {
				from := text.Len()
				fmt.Fprintf(&text, "tether:/,user:%d", user)
				subjects[i] = text.String()[from:]
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			x := newIndex()
			s := new(Socket)
			for user := range n {
				m, _ := x.join(fmt.Sprintf("tether:/,user:%d", user), s)
				x.shard(m.room).queue = nil // interest would have worked it off
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(n); pb.Next(); i++ {
					if i == n {
						i = 0
					}
					if x.lookup(subjects[i]) == nil {
						b.Error("room not found")
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mlookups/s")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/room")
			runtime.KeepAlive(x)
		})
	}
}

func BenchmarkIndexJoinLeave(b *testing.B) {
	x := newIndex()
	var id atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		subject := fmt.Sprint("tether:/,user:", id.Add(1))
		s := new(Socket)
		for pb.Next() {
			m, _ := x.join(subject, s)
			x.leave(m)
		}
	})
}
