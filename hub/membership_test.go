package hub

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Joining and leaving costs the same for each room, however many there are. With five times as many rooms
// it takes five times as long; twenty-five times would be too long.
func TestManyRoomsCostWhatTheyAreEach(t *testing.T) {
	const few, many = 20_000, 100_000
	h := alone(t, Options{Limits: Limits{Rooms: many}})
	h.Of("/").OnConnect(func(context.Context, *Socket) error { return nil })
	rooms := make([]Target, many)
	for i := range rooms {
		rooms[i] = Room(fmt.Sprint(i))
	}
	took := func(n int) time.Duration {
		_, s := connect(t, h)
		began := time.Now()
		if err := s.Join(t.Context(), rooms[:n]...); err != nil {
			t.Fatal(err)
		}
		s.Leave(rooms[:n/2]...)
		if got := len(s.Rooms()); got != 1+n-n/2 {
			t.Fatalf("the socket is in %d rooms, want %d", got, 1+n-n/2)
		}
		s.Leave(rooms...)
		if got := s.Rooms(); !slices.Equal(got, []Target{s.Target()}) {
			t.Fatalf("the socket is in %v", got)
		}
		return time.Since(began)
	}
	var short, long time.Duration
	for range 5 { // something else may have run meanwhile
		if short, long = took(few), took(many); long < 12*short {
			return
		}
	}
	t.Errorf("%d rooms take %v, %d take %v", few, short, many, long)
}

// A socket in so many rooms that it has a map of them is in the rooms that it has joined and not left.
func TestRoomsComeAndGoPastTheMap(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	room := func(i int) Target { return Room(fmt.Sprint(i)) }
	in := map[Target]bool{}
	for i := range 4 * manyRooms {
		if err := s.Join(t.Context(), room(i), room(i/2)); err != nil {
			t.Fatal(err)
		}
		in[room(i)], in[room(i/2)] = true, true
		if i%3 == 0 {
			s.Leave(room(i / 3))
			delete(in, room(i/3))
		}
	}
	for i := range 4 * manyRooms {
		got := s.Rooms()[1:]
		if len(got) != len(in) || slices.ContainsFunc(got, func(to Target) bool { return !in[to] }) {
			t.Fatalf("the socket is in %d rooms, want %d", len(got), len(in))
		}
		if in[room(i)] {
			mustEmit(t, h.Emitter(), room(i), "x")
			p.want(`42["x"]`)
			mustEmit(t, h.Emitter().Except(room(i)), Everyone, "y")
		}
		s.Leave(room(i))
		delete(in, room(i))
	}
	p.wantNothing()
}
