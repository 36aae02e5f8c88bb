package hub

import (
	"bytes"
	"context"
	"maps"
	"strconv"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/cluster"
	"tether/engine"
)

// TestOneEventIn64CarriesItsTimeAndTheOthersNoByteOfIt.
func TestOneEventIn64CarriesItsTimeAndTheOthersNoByteOfIt(t *testing.T) {
	h := start(t, memory.NewBus().Broker(), Options{})
	p, s := connect(t, h)
	emit := func(i int) time.Duration {
		t.Helper()
		if _, err := h.Emitter().Emit(t.Context(), s.Target(), "x", i); err != nil {
			t.Fatal(err)
		}
		packet := <-p.packets
		if want := `42["x",` + strconv.Itoa(i) + `]`; string(packet.Text()) != want {
			t.Fatalf("got %q, want %q", packet.Text(), want)
		}
		at, ok := packet.Emitted()
		if !ok {
			return -1
		}
		return time.Since(at)
	}
	stamped := 0
	for i := range 3 * sampleEvery {
		if took := emit(i); took >= 0 {
			stamped++
		}
	}
	if stamped != 3 {
		t.Errorf("%d events of %d carry their time, want 3", stamped, 3*sampleEvery)
	}
}

// TestTheTimeOfAnEmitSurvivesClocksThatDifferAndTheEndOfItsBits.
func TestTheTimeOfAnEmitSurvivesClocksThatDifferAndTheEndOfItsBits(t *testing.T) {
	now := time.UnixMicro(5<<32 + 100) // 100 µs after the bits have begun anew
	h, err := New(memory.NewBus().Broker(), Options{Time: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for _, ago := range []time.Duration{0, 50 * time.Microsecond, time.Second, 30 * time.Minute, -time.Second, -30 * time.Minute} {
		before := time.Now()
		at := h.emitted(uint32(now.Add(-ago).UnixMicro()))
		if lo, hi := before.Add(-ago), time.Now().Add(-ago); at.Before(lo) || at.After(hi) {
			t.Errorf("emitted %v ago: got %v, want between %v and %v", ago, at, lo, hi)
		}
	}
}

func TestAStampIsPartOfTheEnvelopeAndNotOfTheFrames(t *testing.T) {
	frames := []byte{0x81, 2, '4', '2'}
	data := append(appendTerms(appendEnvelope(nil, kindEvent, flagTerms|flagStamp, "", nil), DropOldest, "key"), 1, 2, 3, 4)
	e, err := parseEnvelope(append(data, frames...))
	if err != nil || e.stamp != 0x01020304 || !bytes.Equal(e.body, frames) || string(e.terms[1:]) != "key" {
		t.Errorf("got %+v, %v", e, err)
	}
	if _, err := parseEnvelope(append(appendEnvelope(nil, kindEvent, flagStamp, "", nil), 1, 2, 3)); err != errEnvelopeMalformed {
		t.Errorf("a stamp of three bytes: got %v", err)
	}
}

// unsure is a broker whose receipts and errors are those of the test.
type unsure struct {
	broker.Broker
	receipt broker.Receipt
	err     error
}

func (u *unsure) Publish(_ context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	receipts := make([]broker.Receipt, len(msgs))
	for i := range receipts {
		receipts[i] = u.receipt
	}
	return receipts, u.err
}

func TestEmitsAreCountedByWhatTheirReceiptsSay(t *testing.T) {
	b := &unsure{Broker: memory.NewBus().Broker()}
	h, err := New(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	two := []Target{User("1"), User("2")}
	for _, c := range []unsure{
		{receipt: broker.Receipt{Nodes: 1}},
		{receipt: broker.Receipt{}},
		{receipt: broker.Receipt{Bound: broker.AtLeast, Nodes: 3}},
		{receipt: broker.Receipt{Bound: broker.Unknown}},
		{receipt: broker.Receipt{Bound: broker.Unknown}, err: broker.ErrUnavailable},
	} {
		b.receipt, b.err = c.receipt, c.err
		if _, err := h.Emitter().EmitMany(t.Context(), two, "x"); (err != nil) != (c.err != nil) {
			t.Fatal(err)
		}
	}
	s := h.Stats()
	got := [4]uint64{s.Emitted, s.Nobody, s.Unknown, s.Unplaced}
	if want := [4]uint64{10, 2, 2, 2}; got != want {
		t.Errorf("got %d emitted, %d nobody, %d unknown, %d unplaced; want %d", got[0], got[1], got[2], got[3], want)
	}
}

func TestTheEndsOfSocketsAreCountedByTheirReason(t *testing.T) {
	h := start(t, memory.NewBus().Broker(), Options{})
	left, _ := connect(t, h)
	left.say("1")
	_, kicked := connect(t, h)
	kicked.Disconnect(false)
	lost, _ := connect(t, h)
	lost.Close(ReasonPingTimeout)
	<-lost.ended
	odd, _ := connect(t, h)
	odd.Close("something else")
	<-odd.ended
	want := map[Reason]uint64{ReasonClientDisconnect: 1, ReasonServerDisconnect: 1, ReasonPingTimeout: 1, "": 1}
	got := map[Reason]uint64{}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); { // the last one may not have been handled yet
		for reason, n := range h.Stats().Disconnected {
			if got[reason] = n; n == 0 {
				delete(got, reason)
			}
		}
		if maps.Equal(got, want) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("got %v, want %v", got, want)
}

func TestQuestionsAreCountedByTheirOutcome(t *testing.T) {
	h := start(t, memory.NewBus().Broker(), Options{})
	connect(t, h)
	for range h.Emitter().FetchSockets(t.Context(), Everyone, FetchOptions{}).All {
	}
	for range h.Emitter().FetchSockets(t.Context(), Everyone, FetchOptions{}).All {
		break
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for range h.Emitter().FetchSockets(done, Everyone, FetchOptions{}).All {
	}
	got := h.Stats().Questions
	if got.Complete != 1 || got.Left != 1 || got.Complete+got.Left+got.Late+got.Failed != 3 {
		t.Errorf("got %+v", got)
	}
	if zero := (cluster.Outcomes{}); got == zero {
		t.Error("nothing is counted")
	}
}

// TestWhatWasKeptForAClientIsNotTimed: how long a client was away says nothing about the hub.
func TestWhatWasKeptForAClientIsNotTimed(t *testing.T) {
	for name, p := range map[string]*engine.Packet{
		"plain":       engine.NewPacket(engine.Terms{}, []byte(`42["x"]`)),
		"with binary": engine.NewPacket(engine.Terms{Key: "k"}, []byte(`451-["x",{"_placeholder":true,"num":0}]`), []byte{7}),
	} {
		p.SetEmitted(time.Now())
		e := engine.NewEntry(p, []byte(`"offset"`))
		if _, ok := e.Emitted(); !ok {
			t.Errorf("%s: what is sent at once and kept has lost its time", name)
		}
		u := e.Untimed()
		if _, ok := u.Emitted(); ok || !bytes.Equal(u.Frames(), e.Frames()) || u.Key() != p.Key() || u.Attachments() != p.Attachments() {
			t.Errorf("%s: got %q with key %q and %d attachments", name, u.Frames(), u.Key(), u.Attachments())
		}
	}
}
