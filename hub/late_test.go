package hub

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
)

// holed is the broker of a node that events with "hole" in them do not come to: one of several servers, which have no order
// in common.
type holed struct{ broker.Broker }

func (b holed) Run(ctx context.Context, h broker.Handler) error {
	deliver := h.Deliver
	h.Deliver = func(m broker.Message) {
		if kind(m.Data[1]) != kindEvent || !bytes.Contains(m.Data, []byte(`"hole"`)) {
			deliver(m)
		}
	}
	return b.Broker.Run(ctx, h)
}

// lateRig is a client in room r whose session has moved from the first of three nodes to the second, just now. The others
// do not get events with "hole" in them.
type lateRig struct {
	t    *testing.T
	hubs []*Hub
	*returning
}

func movedJustNow(t *testing.T) *lateRig {
	t.Helper()
	bus := memory.NewBus()
	hubs := []*Hub{start(t, bus.Broker(), moving)}
	for range 2 {
		hubs = append(hubs, start(t, holed{bus.Broker()}, moving))
	}
	r := comes(t, hubs[0])
	if err := r.socket().Join(t.Context(), Room("r")); err != nil {
		t.Fatal(err)
	}
	rig := &lateRig{t, hubs, r}
	rig.goes(1)
	return rig
}

func (r *lateRig) goes(to int) {
	r.t.Helper()
	r.lose()
	if r.at(r.hubs[to]).connect(r.t); !r.recovered {
		r.t.Fatalf("it is not recovered: %+v", r.hubs[to].Stats())
	}
}

// emit emits by way of the first node, which gets everything.
func (r *lateRig) emit(to Target, args ...any) {
	r.t.Helper()
	mustEmit(r.t, r.hubs[0].Emitter(), to, "e", args...)
}

// settle waits until the nodes that the session has left have told what they have got, and forgotten it.
func (r *lateRig) settle() {
	r.t.Helper()
	time.Sleep(2*shadowTime + lateTime + claimTime)
	synctest.Wait()
	if n := r.hubs[0].Stats().Rooms; n != 0 && r.h != r.hubs[0] {
		r.t.Fatalf("the node that had the session is still in %d rooms", n)
	}
}

// What only the node has got that had the session before is sent, if it can still be sent in order.
func TestWhatOnlyTheNodeBeforeHasGotIsSent(t *testing.T) {
	for story, c := range map[string]struct {
		then func(r *lateRig)
		want []string
	}{
		"it is the last":             {func(*lateRig) {}, []string{"[e 1]", "[e hole]"}},
		"another room has gone on":   {func(r *lateRig) { r.emit(Everyone, 2) }, []string{"[e 1]", "[e 2]", "[e hole]"}},
		"another emitter has":        {func(r *lateRig) { mustEmit(t, r.hubs[1].Emitter(), Room("r"), "e", 2) }, []string{"[e 1]", "[e 2]", "[e hole]"}},
		"the room has been left":     {func(r *lateRig) { r.socket().Leave(Room("r")) }, []string{"[e 1]"}},
		"the session has moved on":   {func(r *lateRig) { r.goes(2) }, []string{"[e 1]", "[e hole]"}},
		"the session moves on later": {func(r *lateRig) { time.Sleep(shadowTime / 2); r.goes(2) }, []string{"[e 1]", "[e hole]"}},
		"and is back where it was":   {func(r *lateRig) { r.goes(0) }, []string{"[e 1]", "[e hole]"}},
		"the client is away":         {func(r *lateRig) { r.lose(); r.settle(); r.goes(1) }, []string{"[e 1]", "[e hole]"}},
		"it comes after all, by now": {func(r *lateRig) { r.emit(SocketID(r.sid), 2) }, []string{"[e 1]", "[e 2]", "[e hole]"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := movedJustNow(t)
			r.emit(Room("r"), 1)
			r.emit(Room("r"), "hole")
			c.then(r)
			r.settle()
			for _, want := range c.want {
				if len(r.packets) == 0 {
					t.Errorf("%s: %s is missing", story, want)
					return
				}
				if got := fmt.Sprint(r.event(t)); got != want {
					t.Errorf("%s: got %s, want %s", story, got, want)
				}
			}
			if r.wantNothing(); r.closedFor() != "" {
				t.Errorf("%s: the connection is closed, %s", story, r.closedFor())
			}
			if n := r.h.Stats().UnrecoveredGap; n != 0 {
				t.Errorf("%s: %d sessions have a gap", story, n)
			}
		})
	}
}

// What can no longer be sent in order ends the session: its client learns that something is missing.
func TestWhatOnlyTheNodeBeforeHasGotIsAGapBehindALaterEvent(t *testing.T) {
	for story, then := range map[string]func(r *lateRig){
		"on the next node":                     func(*lateRig) {},
		"on the one after that":                func(r *lateRig) { r.goes(2) },
		"on the one after that, a while later": func(r *lateRig) { time.Sleep(shadowTime / 2); r.goes(2) },
		"while the client is away":             func(r *lateRig) { r.lose() },
	} {
		synctest.Test(t, func(t *testing.T) {
			r := movedJustNow(t)
			r.emit(Room("r"), "hole")
			r.emit(Room("r"), 2)
			r.wantEvents(t, "[e 2]")
			then(r)
			at := r.h
			r.settle()
			if r.closedFor() == "" {
				t.Errorf("%s: the connection goes on", story)
			}
			if r.connect(t); r.recovered || at.Stats().UnrecoveredGap != 1 {
				t.Errorf("%s: recovered %v, %+v", story, r.recovered, at.Stats())
			}
		})
	}
}

// A room that the session joins while the node before still listens is not that node's to speak of: each of the two has joined
// it in its own time.
func TestARoomThatIsJoinedJustAfterTheMoveHasNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := movedJustNow(t)
		if c, err := r.hubs[2].Emitter().Join(t.Context(), SocketID(r.sid), Room("new")); err != nil || c.Sockets != 1 {
			t.Fatalf("%+v, %v", c, err)
		}
		r.emit(Room("new"), "hole")
		r.emit(Room("new"), 2)
		r.settle()
		r.wantEvents(t, "[e 2]")
		if r.wantNothing(); r.closedFor() != "" || r.h.Stats().UnrecoveredGap != 0 {
			t.Errorf("it is closed: %s, %+v", r.closedFor(), r.h.Stats())
		}
	})
}
