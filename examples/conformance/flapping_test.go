package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/internal/backend"
	wire "tether/internal/client"
	"tether/internal/long"
	"tether/token"
)

// flapping is a server that is killed now and then, and started again.
type flapping struct {
	name string

	mu   sync.Mutex
	base string // guarded by mu; empty: it is dead
	life int    // guarded by mu
	kill func() // guarded by mu
}

func (f *flapping) now() (base string, life int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.base, f.life
}

// lines are what servers have printed of users, in the order in which it was read.
type lines struct {
	mu  sync.Mutex
	all map[string][]printed // guarded by mu; by user
}

// printed is that a user is online, or offline.
type printed struct{ what, by string }

func (l *lines) add(node, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if what, user, ok := strings.Cut(line, " "); ok && (what == "online" || what == "offline") {
		l.all[user] = append(l.all[user], printed{what, node})
	}
}

// of is what was printed of a user.
func (l *lines) of(user string) []printed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all[user])
}

func (l *lines) users() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.all))
}

// changes is how often that was another thing than before.
func (l *lines) changes(user string) (n int) {
	was := "offline"
	for _, p := range l.of(user) {
		if p.what != was {
			was = p.what
			n++
		}
	}
	return n
}

// TestUsersThatFlapWhileServersAreKilled: users with one device each come and go on three servers, one of which is killed
// now and then. Of each it is printed in turn that it is online and that it is offline, each time once, by any server. What
// a server has printed at the instant in which it was killed another one may print again.
func TestUsersThatFlapWhileServersAreKilled(t *testing.T) {
	long.Only(t)
	t.Parallel()
	for name, server := range map[string]func(t testing.TB, args ...string) *backend.Server{"Redis": backend.Redis, "NATS": backend.NATS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			book := &lines{all: make(map[string][]printed)}
			key := token.GenerateKey()
			sealing, err := token.NewKey(key)
			if err != nil {
				t.Fatal(err)
			}
			seal := func(user string) string {
				sealed, err := token.NewKeyring(sealing).Seal(user)
				if err != nil {
					t.Error(err)
				}
				return sealed
			}
			args := []string{"-broker", server(t).URL, "-token-key", key}
			var all []*flapping
			for _, name := range []string{"A", "B", "C"} {
				f := &flapping{name: name}
				f.start(t, book, args)
				all = append(all, f)
			}
			base, _ := all[0].now()
			awaitList(t, base, `"members":["A","B","C"]`)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			end := sync.OnceFunc(func() { close(stop); wg.Wait() })
			defer end()
			var visits atomic.Int64
			killed := make(map[string]bool)
			for i := range 8 {
				wg.Go(func() {
					for n := 0; !t.Failed(); n++ { // one whose server was killed may still be told of, and does not come again
						if user := fmt.Sprint(i, "-", n); flap(t, book, user, seal(user), all, &visits, stop) {
							return
						}
					}
				})
			}
			kills := 2
			for range kills {
				if t.Failed() {
					break
				}
				for from := visits.Load(); visits.Load() < from+300 && !t.Failed(); { // what one server knew is known by two again
					time.Sleep(time.Millisecond)
				}
				at := rand.IntN(3)
				f, other := all[at], all[(at+1)%3]
				f.mu.Lock()
				f.base = ""
				f.kill()
				killed[f.label()] = true
				f.mu.Unlock()
				base, _ := other.now()
				awaitList(t, base, map[int]string{0: `"members":["B","C"]`, 1: `"members":["A","C"]`, 2: `"members":["A","B"]`}[at])
				f.start(t, book, args)
				base, _ = f.now()
				awaitList(t, base, `"members":["A","B","C"]`)
			}
			end()
			again := 0
			for _, user := range book.users() {
				if !within(func() bool { return book.changes(user)%2 == 0 }) {
					t.Errorf("%s is online", user)
				}
				was, by := "offline", ""
				for j, told := range book.of(user) {
					if told.what != was {
						was, by = told.what, told.by
						continue
					}
					again++
					if !killed[by] {
						t.Errorf("of %s line %d is %v, behind %s by %s, which lives", user, j, told, was, by)
					}
				}
			}
			t.Logf("%d visits, %d servers killed, %d lines printed again", visits.Load(), kills, again)
		})
	}
}

func (f *flapping) start(t *testing.T, book *lines, args []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life++
	label := f.label()
	f.base, f.kill = startChild(t, func(line string) { book.add(label, line) }, slices.Concat(args, []string{"-node", f.name})...)
}

// label names the server as it is until it is killed.
func (f *flapping) label() string { return fmt.Sprint(f.name, f.life) }

// flap has a user come and go until stop is closed, which it reports, or the server is killed that has the user.
func flap(t *testing.T, book *lines, user, sealed string, all []*flapping, visits *atomic.Int64, stop <-chan struct{}) (over bool) {
	for {
		select {
		case <-stop:
			return true
		default:
		}
		if !visit(t, book, user, sealed, all) {
			return t.Failed()
		}
		visits.Add(1)
	}
}

// visit has a user come to a server, and go. It reports whether the server has lived all the while: then both were printed.
func visit(t *testing.T, book *lines, user, sealed string, all []*flapping) bool {
	f := all[rand.IntN(len(all))]
	base, life := f.now()
	for base == "" {
		f = all[rand.IntN(len(all))]
		base, life = f.now()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	before := book.changes(user)
	lives := func() bool { now, of := f.now(); return now != "" && of == life }
	await := func(n int) bool {
		return within(func() bool { return book.changes(user) >= before+n || !lives() }) && lives()
	}
	c, err := wire.Dial(ctx, wire.Options{URL: base, Auth: map[string]string{"token": sealed}})
	if err == nil {
		defer c.Close()
		if await(1) {
			time.Sleep(rand.N(30 * time.Millisecond))
			c.Close()
			if await(2) {
				return true
			}
		}
	}
	if lives() {
		all := book.of(user)
		t.Errorf("%s on %s: %v; printed were, at last, %v", user, f.name, err, all[max(0, len(all)-4):])
	}
	return false
}

// within waits until something is so, and reports whether it is.
func within(so func() bool) bool {
	for limit := time.Now().Add(20 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			return false
		}
	}
	return true
}
