package main

import (
	"context"
	"fmt"
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
			var visits, whole atomic.Int64
			killed := make(map[string]bool)
			for i := range 8 {
				wg.Go(func() {
					user := fmt.Sprint(i)
					sealed, err := token.NewKeyring(sealing).Seal(user)
					if err != nil {
						t.Error(err)
						return
					}
					for !t.Failed() {
						select {
						case <-stop:
							return
						default:
						}
						if visits.Add(1); visit(t, book, user, sealed, all) {
							whole.Add(1)
						}
					}
				})
			}
			kills := 2
			for range kills {
				if t.Failed() {
					break
				}
				<-time.After(time.Second + rand.N(time.Second))
				f := all[rand.IntN(3)]
				f.mu.Lock()
				f.base = ""
				f.kill()
				killed[f.label()] = true
				f.mu.Unlock()
				<-time.After(6 * time.Second)
				f.start(t, book, args)
				base, _ := f.now()
				awaitList(t, base, `"members":["A","B","C"]`)
				<-time.After(3 * time.Second) // what one server knew is known by two again
			}
			end()
			again := 0
			for i := range 8 {
				user, was, by := fmt.Sprint(i), "offline", ""
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
				if was != "offline" {
					t.Errorf("%s is %s", user, was)
				}
			}
			t.Logf("%d visits, %d of them of servers that lived; %d servers killed, %d lines printed again", visits.Load(), whole.Load(), kills, again)
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

// visit has a user come to a server, and go. It reports whether the server has lived all the while: then both were printed.
func visit(t *testing.T, book *lines, user, sealed string, all []*flapping) bool {
	f := all[rand.IntN(len(all))]
	base, life := f.now()
	if base == "" {
		time.Sleep(50 * time.Millisecond)
		return false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	before := book.changes(user)
	lives := func() bool { now, of := f.now(); return now != "" && of == life }
	await := func(n int) bool {
		return within(func() bool { return book.changes(user) >= before+n || !lives() }) && lives()
	}
	last := func() []printed { all := book.of(user); return all[max(0, len(all)-4):] }
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
		t.Errorf("%s on %s: %v; printed were, at last, %v", user, f.name, err, last())
		return false
	}
	if err == nil {
		c.Close()
	}
	time.Sleep(6 * time.Second)
	if !within(func() bool { return book.changes(user)%2 == 0 }) {
		t.Errorf("%s was on %s, which was killed, and is online: %v", user, f.name, last())
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
