package transport

import (
	"encoding/base64"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestARegistryFindsWhatIsInItAndNothingElse(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var r registry
	in := make(map[id]*session)
	var all []*session
	for step := range 4000 {
		if grow := step < 1600 || step > 3200; len(all) == 0 || rnd.IntN(4) == 0 != grow {
			s := &session{}
			binary.LittleEndian.PutUint64(s.id[:], uint64(rnd.IntN(512))) // they collide
			binary.LittleEndian.PutUint32(s.id[8:], uint32(step))
			r.add(s)
			in[s.id] = s
			all = append(all, s)
		} else {
			i := rnd.IntN(len(all))
			s := all[i]
			all = slices.Delete(all, i, i+1)
			r.remove(s)
			r.remove(s) // does nothing
			delete(in, s.id)
			if r.find(s.id) != nil {
				t.Fatalf("step %d: found after it was removed", step)
			}
		}
		if r.len() != len(in) {
			t.Fatalf("step %d: %d sessions, want %d", step, r.len(), len(in))
		}
		if step%500 == 0 {
			for key, s := range in {
				if r.find(key) != s {
					t.Fatalf("step %d: one is not found", step)
				}
			}
			if got := r.all(); len(got) != len(in) {
				t.Fatalf("step %d: all are %d, want %d", step, len(got), len(in))
			}
		}
	}
	for _, s := range all {
		r.remove(s)
	}
	if r.slots != nil {
		t.Error("an empty registry keeps memory")
	}
	if r.find(id{}) != nil {
		t.Error("something is found in an empty registry")
	}
}

func TestAnIDIsReadBackAsItWasWritten(t *testing.T) {
	d := newID()
	if got, ok := parseID(d.String()); !ok || got != d || len(d.String()) != 20 {
		t.Fatalf("got %v, %v; want %v", got, ok, d)
	}
	for _, s := range []string{"", "x", d.String()[:19], d.String() + "x", d.String()[:19] + "=", d.String()[:19] + "\n", "constructor", "__proto__",
		base64.StdEncoding.EncodeToString([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})} {
		if _, ok := parseID(s); ok {
			t.Errorf("%q is taken for an ID", s)
		}
	}
}
