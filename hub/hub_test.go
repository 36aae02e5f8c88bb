package hub

import (
	"context"
	"slices"
	"testing"
)

func TestAClientConnectsAndReceives(t *testing.T) {
	hubs := several(t, 2, Options{})
	hubs[0].Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		return s.Register(ctx, "42")
	})
	p, s := connect(t, hubs[0])
	p.want(`42["/ops/connection-success",{"message":"Successfully connected"}]`)
	r := mustEmit(t, hubs[1].Emitter(), User("42"), "/users/ping", map[string]string{"hello": "<world>"})
	if want := receiptOf(exactly(1)); r != want {
		t.Errorf("receipt is %v, want %v", r, want)
	}
	p.want(`42["/users/ping",{"hello":"<world>"}]`)
	if got := s.Users(); !slices.Equal(got, []Target{User("42")}) {
		t.Errorf("users are %v", got)
	}
	if r := mustEmit(t, hubs[1].Emitter(), User("43"), "/users/ping"); !r.Nobody() {
		t.Errorf("receipt for a user who is not there is %v", r)
	}
}

func TestAHandlerAnswersAndAsks(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/").On("add", func(_ context.Context, _ *Socket, m *Message) error {
		var a, b int
		if err := m.Bind(&a, &b); err != nil {
			return err
		}
		return m.Ack(a + b)
	})
	asked := make(chan string, 1)
	h.Of("/").On("ask-me", func(ctx context.Context, s *Socket, _ *Message) error {
		m, err := s.EmitAck(ctx, "name?")
		if err != nil {
			return err
		}
		var name string
		err = m.Decode(0, &name)
		asked <- name
		return err
	})
	p, _ := connect(t, h)
	p.say(`27["add",1,2]`)
	p.want(`437[3]`)
	p.say(`2["ask-me"]`)
	p.want(`420["name?"]`)
	p.say(`30["Ada"]`)
	if got := <-asked; got != "Ada" {
		t.Errorf("answer is %q", got)
	}
}

func TestDisconnectAndConnectInOneSegment(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/custom")
	p := dial(t, h)
	p.say("0/custom,")
	first := p.joined("/custom")
	p.say("1/custom,", "0/custom,")
	if second := p.joined("/custom"); second.ID() == first.ID() {
		t.Error("the socket is the same as before")
	}
	if p.closedFor() != "" {
		t.Errorf("connection was closed: %s", p.closedFor())
	}
}
