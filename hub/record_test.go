package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
)

// TestAPositionFromBeforeTheSession has a client come with the position of an earlier session, which is unknown by now, and
// get nothing before its node is killed.
func TestAPositionFromBeforeTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, _ := mortals(t, 3, moving)
		r := comes(t, hubs[0])
		mustEmit(t, hubs[1].Emitter(), Everyone, "x", 1)
		r.wantEvents(t, "[x 1]")
		r.socket().Disconnect(false)
		r.next()
		time.Sleep(time.Second)
		if r.at(hubs[0]).connect(t); r.recovered || r.offset == "" {
			t.Fatalf("recovered: %v, offset %q", r.recovered, r.offset)
		}
		kill(0)
		mustEmit(t, hubs[1].Emitter(), Everyone, "x", 2)
		if r.at(hubs[1]).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
		}
		r.wantEvents(t, "[x 2]")
		r.wantNothing()
	})
}

// TestAPositionWithoutAPlaceGoesFromNodeToNode has the last event of a client be one that is not in the log, and its session
// go to another node, which is killed: that client has had everything already.
func TestAPositionWithoutAPlaceGoesFromNodeToNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, _ := mortals(t, 3, moving)
		r := comes(t, hubs[0])
		mustEmit(t, hubs[2].Emitter(), Everyone, "x", 1)
		mustEmit(t, hubs[0].Emitter().Local(), Everyone, "x", 2)
		r.wantEvents(t, "[x 1]", "[x 2]")
		r.lose()
		if r.at(hubs[1]).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
		}
		kill(1)
		if r.at(hubs[2]).connect(t); r.recovered {
			r.wantNothing()
		}
	})
}

// TestAHookThatHasAnHeirLeaveARoom has the hook of the next node take a room away.
func TestAHookThatHasAnHeirLeaveARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, _ := mortals(t, 2, moving)
		e := hubs[1].Emitter()
		hubs[0].Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return s.Join(ctx, Room("a"), Room("b")) })
		hubs[1].Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
			mustEmit(t, e, Room("a"), "x", "before it left")
			s.Leave(Room("a"))
			mustEmit(t, e, Room("a"), "x", "of a room that it has left")
			mustEmit(t, e, Room("b"), "x", "of the other")
			return nil
		})
		r := comes(t, hubs[0])
		kill(0)
		mustEmit(t, e, Room("a"), "x", "while it was away")
		if r.at(hubs[1]).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
		}
		r.wantEvents(t, "[x while it was away]", "[x before it left]", "[x of the other]")
		r.wantNothing()
	})
}

// TestRoomsThatChangeWhileARecordIsSaved has a room be left behind the place that is known, and an event for all but
// that room come between.
func TestRoomsThatChangeWhileARecordIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, kill, _ := mortals(t, 2, moving)
		r := comes(t, hubs[0])
		s := r.socket()
		if err := s.Join(t.Context(), Room("a"), Room("b")); err != nil {
			t.Fatal(err)
		}
		hubs[0].broker.Broker.(*mortal).watch(logWatch{head: func() {
			mustEmit(t, hubs[1].Emitter().Except(Room("a")), Room("b"), "x", "for others")
			s.Leave(Room("a"))
		}})
		s.mu.Lock()
		s.reroomedLocked()
		s.mu.Unlock()
		if err := s.save(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		kill(0) // with what has just been saved
		if r.at(hubs[1]).connect(t); r.recovered {
			r.wantNothing()
		}
	})
}

// TestASessionIsPassedOnWhileItsRecordIsSaved by the socket that had it and the one that has it now.
func TestASessionIsPassedOnWhileItsRecordIsSaved(t *testing.T) {
	hubs, _, _ := mortals(t, 1, moving)
	r := comes(t, hubs[0])
	before := r.socket()
	save := func(s *Socket) {
		if err := s.save(t.Context(), 0); err != nil {
			t.Error(err)
		}
	}
	r.lose()
	hubs[0].broker.Broker.(*mortal).watch(logWatch{save: func() {
		r.connect(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 100 {
				save(before)
				before.saveRisk(t.Context())
				before.SetData(nil)
				before.lost()
			}
		})
		s := r.socket()
		for range 100 {
			s.mu.Lock()
			s.reroomedLocked()
			s.mu.Unlock()
			save(s)
		}
		wg.Wait()
	}})
	_ = before.save(t.Context(), 0) // it is too late
	s := r.socket()
	v := s.sessionOf()
	if !r.recovered || s == before || before.sessionOf() != v {
		t.Fatal("the session is not recovered")
	}
	before.overtaken(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.gap || !v.kept.saved {
		t.Errorf("gap %v, saved %v: the session has ended by a socket that does not have it", v.gap, v.kept.saved)
	}
}

// TestARecordIsNotSavedBehindTheEndOfItsSession has a record be on its way when its session ends.
func TestARecordIsNotSavedBehindTheEndOfItsSession(t *testing.T) {
	for _, refused := range []bool{false, true} { // what drops the record, at first
		t.Run(fmt.Sprint(refused), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hubs, kill, _ := mortals(t, 2, moving)
				r := comes(t, hubs[0])
				s := r.socket()
				w := logWatch{drop: func() error { return broker.ErrUnavailable }}
				if !refused {
					w = logWatch{save: func() {
						s.Disconnect(false)
						time.Sleep(time.Second)
					}}
				}
				hubs[0].broker.Broker.(*mortal).watch(w)
				s.SetData(&profile{"Ann"})
				time.Sleep(100 * time.Millisecond)
				s.Disconnect(false)
				time.Sleep(5 * time.Second)
				kill(0)
				if r.at(hubs[1]).connect(t); r.recovered {
					t.Error("a client that the server has disconnected is recovered")
				}
			})
		})
	}
}

// TestDataThatCannotGoIsNotWaitedFor has a node say at once that a session cannot leave it.
func TestDataThatCannotGoIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, _, _ := mortals(t, 2, moving)
		r := comes(t, hubs[0])
		r.socket().SetData(func() {})
		begin := time.Now()
		if r.at(hubs[1]).connect(t); r.recovered || time.Since(begin) > time.Second {
			t.Errorf("recovered: %v, after %v", r.recovered, time.Since(begin))
		}
	})
}

// TestASocketThatIsGoneIsNotWaitedFor has a socket end whose session has come from another node, while it is sent something.
func TestASocketThatIsGoneIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, _, _ := mortals(t, 2, moving)
		r := comes(t, hubs[0])
		if r.at(hubs[1]).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
		}
		s := r.h.guests.withID(r.sid)
		for _, m := range s.rooms { // its end has got that far
			r.h.interest.leave(m)
		}
		synctest.Wait()
		begin := time.Now()
		if err := s.Emit("x"); !errors.Is(err, ErrDisconnected) || time.Since(begin) > time.Second {
			t.Errorf("%v, after %v", err, time.Since(begin))
		}
	})
}
