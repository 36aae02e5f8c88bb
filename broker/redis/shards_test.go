package redis

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"tether/broker"
	"tether/broker/internal/beat"
)

// shardPeer is what a Cluster's server does with the commands of one connection.
type shardPeer struct {
	t       *testing.T
	in      *subscriber
	world   *shardWorld
	on      map[string]bool
	replies []string // on their way: "+name", "-name", "!" for a redirection, "mark"
}

// shardWorld is a Cluster of two servers.
type shardWorld struct {
	subs  *subscriptions
	peers [2]*shardPeer
	owner [partitions]int // the truth
}

func newShardWorld(t *testing.T) *shardWorld {
	w := &shardWorld{subs: newSubscriptions(newShardedChannels("x:"), func() {})}
	for i := range w.peers {
		w.peers[i] = &shardPeer{t: t, in: newSubscriber(w.subs), world: w, on: make(map[string]bool)}
	}
	for p := range w.owner {
		w.owner[p] = p % 2
	}
	w.learn()
	for _, s := range w.peers {
		s.in.begin(beat.NewPulse())
	}
	return w
}

// learn tells the table the truth.
func (w *shardWorld) learn() {
	owner := make([]*subscriber, partitions)
	for p, i := range w.owner {
		owner[p] = w.peers[i].in
	}
	w.subs.own(owner)
}

// move gives a partition to the other server.
func (w *shardWorld) move(part uint8) {
	from := w.peers[w.owner[part]]
	w.owner[part] = 1 - w.owner[part]
	for name := range from.on {
		if w.subs.channels.partition(name) == part {
			delete(from.on, name)
			from.replies = append(from.replies, "-"+name)
		}
	}
}

// take makes the server read all commands that the writer would send now.
func (s *shardPeer) take() {
	var wire []byte
	for more := true; more; {
		wire, more = s.in.appendCommands(wire)
	}
	d := &reader{src: &sliceReader{wire}, buf: make([]byte, 1024)}
	for {
		v, err := d.reply()
		if err != nil {
			return
		}
		words := v.([]any)
		if words[0] == "PING" {
			s.replies = append(s.replies, "mark")
			continue
		}
		var names []string
		for _, w := range words[1:] {
			name, ok := s.world.subs.channels.subject([]byte(w.(string)))
			if !ok {
				s.t.Fatalf("a channel without our prefix: %q", w)
			}
			names = append(names, string(name))
		}
		part := s.world.subs.channels.partition(names[0])
		if s.world.peers[s.world.owner[part]] != s {
			s.replies = append(s.replies, "!")
			continue
		}
		for _, name := range names {
			if s.world.subs.channels.partition(name) != part {
				s.t.Fatalf("%q and %q are in one command, but not in one slot", names[0], name)
			}
			if words[0] == "SSUBSCRIBE" {
				s.on[name] = true
				s.replies = append(s.replies, "+"+name)
			} else {
				delete(s.on, name)
				s.replies = append(s.replies, "-"+name)
			}
		}
	}
}

// answer makes the next reply arrive.
func (s *shardPeer) answer() {
	if len(s.replies) == 0 {
		return
	}
	r := s.replies[0]
	s.replies = s.replies[1:]
	var err error
	switch r[0] {
	case '!':
		s.world.learn()
		_, err = s.in.refuse("MOVED 1 127.0.0.1:1")
	case 'm':
		_, err = s.in.back()
	case '+':
		_, _, err = s.in.confirm(true, []byte(r[1:]))
	case '-':
		if name := []byte(r[1:]); s.in.asked(name) {
			sub, ended, why := s.in.confirm(false, name)
			if err = why; ended {
				s.in.t.pass(sub)
			}
		} else {
			s.in.ended(name, &outage{})
		}
	}
	if err != nil {
		s.t.Fatalf("%s: %v", r, err)
	}
}

func (w *shardWorld) settle() {
	w.learn()
	for range 100 {
		for _, s := range w.peers {
			s.take()
			for len(s.replies) > 0 {
				s.answer()
				s.take()
			}
		}
	}
}

// TestSubscriptionsFollowTheirSlots drives random calls, confirmations, moving slots, news of them, and lost
// connections, from a seed: in the end every subject is subscribed at the server that owns it, if it is
// wanted, and nowhere else.
func TestSubscriptionsFollowTheirSlots(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 2))
		w := newShardWorld(t)
		var current *call
		want := make(map[string]bool) // what calls have come to
		finish := func(why error) {
			errs := w.subs.finish(current, why)
			for i, sub := range current.list {
				if sub != nil && (errs == nil || errs[i] == nil || !current.on) {
					want[sub.name] = current.on
				}
			}
			current = nil
		}
		for range 80 {
			name := strconv.Itoa(r.IntN(4))
			s := w.peers[r.IntN(2)]
			switch r.IntN(10) {
			case 0, 1, 2:
				switch {
				case current == nil:
					current = w.subs.begin(r.IntN(3) > 0, []string{name, "with " + name})
				case r.IntN(4) == 0: // it gives up
					finish(broker.ErrUnavailable)
				}
			case 3, 4:
				s.take()
			case 5, 6, 7:
				s.answer()
			case 8:
				w.move(w.subs.channels.partition(name))
			case 9:
				switch r.IntN(8) {
				case 0: // the connection is lost
					s.in.end(&outage{cause: broker.ErrUnavailable})
					s.on, s.replies = make(map[string]bool), nil
					s.in.begin(beat.NewPulse())
				case 1, 2, 3:
					w.learn()
				}
			}
			if current != nil && done(current) {
				finish(nil)
			}
		}
		w.settle()
		if current != nil {
			if !done(current) {
				t.Fatalf("seed %d: a call never returns", seed)
			}
			finish(nil)
			w.settle()
		}
		for name, on := range want {
			owner := w.owner[w.subs.channels.partition(name)]
			if w.peers[owner].on[name] != on || w.peers[1-owner].on[name] {
				t.Fatalf("seed %d: %s, wanted %t: its owner has %t, the other %t", seed, name, on, w.peers[owner].on[name], w.peers[1-owner].on[name])
			}
			if _, known := w.subs.all[name]; known != on {
				t.Fatalf("seed %d: %s: known %t, wanted %t", seed, name, known, on)
			}
		}
		if w.subs.missing != 0 {
			t.Fatalf("seed %d: %d subjects are missing for ever", seed, w.subs.missing)
		}
	}
}

func TestEveryPartitionHasAStretchOfSlotsOfItsOwn(t *testing.T) {
	at := partitionSlots()
	for p, slot := range at {
		if slot/(slots/partitions) != p {
			t.Errorf("partition %d is in slot %d", p, slot)
		}
	}
	if got := slotOf("123456789"); got != 0x31C3 {
		t.Errorf("the slot of the standard's example is %#x", got)
	}
	// Nodes of every version must agree.
	w := newShardedChannels("app:")
	for _, c := range []struct{ subject, channel string }{
		{"", "$" + strconv.Itoa(len(w.heads[w.partition("")])) + "\r\n" + w.heads[w.partition("")] + "\r\n"},
		{"user:42", "$16\r\n{229}app:user:42\r\n"},
	} {
		if got := string(w.appendChannel(nil, w.partition(c.subject), c.subject)); got != c.channel {
			t.Errorf("%q: got %q, want %q", c.subject, got, c.channel)
		}
	}
}

func TestSubjectsAreSpreadEvenlyOverPartitions(t *testing.T) {
	w := newShardedChannels("")
	var n [partitions]int
	for i := range 100 * partitions {
		n[w.partition("/:user:"+strconv.Itoa(i))]++
	}
	if low, high := slices.Min(n[:]), slices.Max(n[:]); low < 50 || high > 160 {
		t.Errorf("of 100 subjects a partition has %d to %d", low, high)
	}
}

func FuzzMoved(f *testing.F) {
	for _, s := range []string{"MOVED 3999 127.0.0.1:6381", "ASK 1 :7000", "MOVED 99999 a:1", "MOVED", "ERR no"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { serverError(s).moved() })
}

func TestARedirectionNamesAPartition(t *testing.T) {
	for text, want := range map[string]uint8{"MOVED 0 127.0.0.1:6381": 0, "MOVED 64 :7000": 1, "MOVED 16383 a:1": 255} {
		if got, ok := serverError(text).moved(); !ok || got != want {
			t.Errorf("%s: got %d, %t", text, got, ok)
		}
	}
	for _, text := range []string{"ERR MOVED 1 a:1", "MOVED 16384 a:1", "MOVED -1 a:1", "MOVED 1", "MOVED x a:1", "ASK 1 a:1"} {
		if got, ok := serverError(text).moved(); ok {
			t.Errorf("%s: got %d", text, got)
		}
	}
}

func TestAnAddressIsCompletedFromWhereItWasSaid(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:6381": "127.0.0.1:6381", ":7000": "10.0.0.1:7000", "?:7001": "10.0.0.1:7001",
		"::1:7002": "[::1]:7002", "redis-1.example:1": "redis-1.example:1", "a": "", "a:b": "",
	} {
		if got, ok := completeAddr(text, "10.0.0.1:6379"); got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %t", text, got, ok)
		}
	}
}

func FuzzSlotMap(f *testing.F) {
	for _, s := range []string{
		"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\na\r\n:6379\r\n",
		"*1\r\n*4\r\n:0\r\n:5\r\n*2\r\n$-1\r\n:6379\r\n*3\r\n$1\r\nb\r\n:1\r\n$1\r\ni\r\n",
		"*1\r\n*2\r\n:0\r\n:16383\r\n", "*1\r\n:1\r\n", "*1\r\n*3\r\n:9\r\n:3\r\n*0\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		d := &reader{src: &sliceReader{wire}, buf: make([]byte, 1024)}
		v, err := d.reply()
		if err != nil {
			return
		}
		ranges, _ := v.([]any)
		var m slotMap
		for _, r := range ranges {
			if m.add(r, "10.0.0.1:6379") != nil {
				return
			}
		}
		for _, addr := range m.owner {
			if addr != "" && !slices.Contains(m.all, addr) {
				t.Fatalf("%q serves slots and is not known", addr)
			}
		}
	})
}
