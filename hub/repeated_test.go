package hub

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
)

// unheard is a broker that nodes have taken messages with a place from, and have not said so: NATS, whose node was killed
// before its acknowledgements left, or takes longer than a second.
type unheard struct {
	broker.Broker
	again chan struct{} // what is published again waits until it is closed; nil: it does not
}

func (u unheard) Log() (broker.Log, error) { return u.Broker.(broker.Logger).Log() }

func (u unheard) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if e, err := parseEnvelope(msgs[0].Data); err == nil && u.again != nil && msgs[0].Subject == msgs[0].Log && len(e.target) > 0 {
		<-u.again
	}
	receipts, err := u.Broker.Publish(ctx, msgs...)
	for i := range receipts {
		if msgs[i].Place != 0 {
			receipts[i] = broker.Receipt{Bound: broker.Unknown}
		}
	}
	return receipts, err
}

// repeating is a client of the first of some nodes, and an emitter that does not know whether a node has taken an event for
// one socket: it publishes each once more, so each is in the log twice.
type repeating struct {
	*returning
	hubs   []*Hub
	kill   func(int)
	worker *Emitter
	again  chan struct{}
}

func repeats(t *testing.T, again chan struct{}) *repeating {
	t.Helper()
	hubs, kill, bus := mortals(t, 3, moving)
	b := unheard{bus.Broker(), again}
	t.Cleanup(func() { b.Close() })
	return &repeating{comes(t, hubs[0]), hubs, kill, NewEmitter(b, EmitterOptions{}), again}
}

// emit emits an event to the client's ID.
func (r *repeating) emit(t *testing.T, args ...any) {
	t.Helper()
	mustEmit(t, r.worker, SocketID(r.sid), "x", args...)
}

// goes has the client come to another node, which goes on with its session.
func (r *repeating) goes(t *testing.T, to int) {
	t.Helper()
	if r.at(r.hubs[to]).connect(t); !r.recovered {
		t.Fatalf("node %d does not recover it: %+v", to, r.hubs[to].Stats())
	}
}

// late has what comes to a node wait.
func (r *repeating) late(node int) (let func()) {
	m := r.hubs[node].broker.Broker.(*mortal)
	m.hold(false)
	return m.let
}

// TestWhatIsPublishedAgainIsNotGivenTwice by a node that inherits the session.
func TestWhatIsPublishedAgainIsNotGivenTwice(t *testing.T) {
	for name, f := range map[string]func(*testing.T){
		"the node of the ID has delivered it": func(t *testing.T) {
			r := repeats(t, nil)
			r.emit(t, 1)
			r.wantEvents(t, "[x 1]")
			r.kill(0)
			r.emit(t, 2)
			r.goes(t, 1)
			r.wantEvents(t, "[x 2]")
			r.wantNothing()
			r.kill(1)
			r.goes(t, 2)
			r.wantNothing()
		},
		"an heir has read it, and it comes again": func(t *testing.T) {
			again := make(chan struct{})
			r := repeats(t, again)
			r.kill(0)
			emitted := make(chan struct{})
			go func() { // waited for below
				defer close(emitted)
				r.emit(t, 1)
			}()
			r.goes(t, 1)
			r.wantEvents(t, "[x 1]")
			close(again)
			<-emitted
			synctest.Wait()
			r.kill(1) // the client has had the first, and it is not known any more from whom
			if r.at(r.hubs[2]).connect(t); r.recovered || r.hubs[2].Stats().UnrecoveredGap != 1 {
				t.Errorf("recovered: %v, %+v", r.recovered, r.hubs[2].Stats())
			}
			r.wantNothing()
		},
		"the node of the ID passes it on, too": func(t *testing.T) {
			r := repeats(t, nil)
			r.lose()
			r.goes(t, 1)
			time.Sleep(time.Minute)
			pass := r.late(0)
			r.emit(t, 1)
			r.wantEvents(t, "[x 1]")
			r.late(1)
			pass()
			synctest.Wait()
			r.kill(1)
			r.goes(t, 2)
			r.wantNothing()
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
}

// TestWhatIsPassedOnBehindALaterEventIsInherited has the node that the ID names pass an event on to the next one, which is
// killed before it has it, but has sent one that was emitted in between.
func TestWhatIsPassedOnBehindALaterEventIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := repeats(t, nil)
		r.lose()
		r.goes(t, 1)
		time.Sleep(time.Minute)
		pass := r.late(0)
		mustEmit(t, r.hubs[2].Emitter(), SocketID(r.sid), "x", "passed on")
		mustEmit(t, r.hubs[2].Emitter(), Everyone, "x", "between")
		r.wantEvents(t, "[x between]")
		r.late(1)
		pass()
		synctest.Wait()
		r.kill(1)
		r.goes(t, 2)
		r.wantEvents(t, "[x passed on]")
		r.wantNothing()
	})
}
