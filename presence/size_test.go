package presence

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"tether/hub"
)

// BenchmarkMemory reports what a user with one device takes on its own node, and on the owner.
func BenchmarkMemory(b *testing.B) {
	const users = 100_000
	var before, between, after runtime.MemStats
	for b.Loop() {
		keys := make([]string, users)
		for i := range keys {
			keys[i] = fmt.Sprint("tether:/,user:", i)
		}
		runtime.GC()
		runtime.ReadMemStats(&before)
		holdings := make(map[string]*holding)
		for i, key := range keys {
			holdings[key] = &holding{key: key, hash: hashKey(key), number: uint64(i), devices: []held{{number: uint64(i)}}}
		}
		runtime.GC()
		runtime.ReadMemStats(&between)
		records := make(map[string]*record)
		for i, key := range keys {
			r := &record{key: key, hash: hashKey(key)}
			r.apply("12345678", &wordUser{number: uint64(i + 1), devices: []wordDevice{{id: "12345678901234567890", number: uint64(i + 1)}}}, func() uint64 { return 1 })
			records[key] = r
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(holdings)
		runtime.KeepAlive(records)
		runtime.KeepAlive(keys)
	}
	b.ReportMetric(float64(between.HeapAlloc-before.HeapAlloc)/users, "B/user")
	b.ReportMetric(float64(after.HeapAlloc-between.HeapAlloc)/users, "B/record")
}

// BenchmarkRoomMemory reports what a member of a room takes on its own node, and on one whose sockets watch the room.
func BenchmarkRoomMemory(b *testing.B) {
	const members = 100_000
	var before, between, after runtime.MemStats
	for b.Loop() {
		names := make([]string, members)
		for i := range names {
			names[i] = fmt.Sprint("member-", i)
		}
		sockets := make([]hub.Socket, members)
		runtime.GC()
		runtime.ReadMemStats(&before)
		p := &Presence{stays: make(map[string]*stay), seats: make(map[*hub.Socket][]*seat)}
		st := p.stayLocked("tether:/,:tea")
		for i, name := range names {
			at := &seat{socket: &sockets[i], stay: st, name: name, shown: true}
			p.seats[at.socket] = append(p.seats[at.socket], at)
			st.names[name] = append(st.names[name], at)
		}
		runtime.GC()
		runtime.ReadMemStats(&between)
		w := &watched{told: make(map[string]string), lingering: make(map[string]time.Time), changed: make(map[string]struct{}), news: make(chan struct{}, 1)}
		t := &part{room: w, names: make(map[string]seen)}
		w.parts = map[string]*part{"": t}
		for _, name := range names {
			t.names[name] = seen{}
			w.told[name] = ""
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(p)
		runtime.KeepAlive(w)
		runtime.KeepAlive(sockets)
	}
	b.ReportMetric(float64(between.HeapAlloc-before.HeapAlloc)/members, "B/member")
	b.ReportMetric(float64(after.HeapAlloc-between.HeapAlloc)/members, "B/watched")
}
