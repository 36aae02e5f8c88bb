package docs

import (
	"context"
	"errors"
	"testing"

	"tether/broker/memory"
	"tether/hub"
)

// The code of emitting.md that is in no example.

func emitToUser(ctx context.Context, emitter *hub.Emitter, push func(context.Context, string) error) error {
	receipt, err := emitter.Emit(ctx, hub.User("42"), "/users/ping", map[string]string{"hello": "world"})
	if err != nil {
		return err // the broker did not take it
	}
	if receipt.Nobody() {
		return push(ctx, "42") // nobody is there, for certain
	}
	return nil
}

func emittersOfAHub(h *hub.Hub) []*hub.Emitter {
	emitter := h.Emitter() // of the namespace "/"
	admins := h.Of("/admin").Emitter()
	return []*hub.Emitter{emitter, admins}
}

func emitFromAHandler(h *hub.Hub) {
	h.Of("/").On("typing", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		_, err := s.Broadcast().Volatile().Emit(ctx, hub.Room("lobby"), "typing", s.ID())
		return err
	})
}

func registerAsAnotherKind(ctx context.Context, s *hub.Socket, id string) error {
	return s.RegisterAs(ctx, hub.Kind("admin-user").User(id))
}

func emitToSeveral(ctx context.Context, emitter *hub.Emitter) (hub.Receipt, error) {
	// To several rooms, each socket once.
	receipt, err := emitter.EmitUnion(ctx, []hub.Target{hub.Room("staff"), hub.Room("editors")}, "build", "done")
	return receipt, err
}

func emitAndAsk(ctx context.Context, emitter *hub.Emitter, push func(context.Context, string) error) error {
	receipt, err := emitter.AskLive().Emit(ctx, hub.User("42"), "/users/ping", "hello")
	if err != nil {
		return err // nothing was emitted, or the broker did not take it
	}
	if receipt.Live.Nobody() {
		return push(ctx, "42") // no client is connected; one that comes back gets the event, too
	}
	return nil
}

func emitToEveryoneBut(ctx context.Context, emitter *hub.Emitter) (hub.Receipt, error) {
	// To everyone but some.
	receipt, err := emitter.Except(hub.User("42"), hub.Room("muted")).Emit(ctx, hub.Everyone, "news", "hello")
	return receipt, err
}

func emitPrices(ctx context.Context, emitter *hub.Emitter) (hub.Receipt, error) {
	prices := emitter.Latest("price:EURUSD").Overflow(hub.DropNewest)
	receipt, err := prices.Emit(ctx, hub.Room("quotes"), "price", 1.0842)
	return receipt, err
}

func emitRows(ctx context.Context, s *hub.Socket, rows []string) error {
	for _, row := range rows {
		if err := s.Wait(ctx); err != nil {
			return err
		}
		if err := s.Emit("row", row); err != nil {
			return err
		}
	}
	return nil
}

func TestTheCodeOfTheGuideDoesWhatItSays(t *testing.T) {
	ctx := t.Context()
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	emitFromAHandler(h)
	pushed := ""
	for _, emitter := range emittersOfAHub(h) {
		err := emitToUser(ctx, emitter, func(_ context.Context, user string) error {
			pushed += user
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if err := emitAndAsk(ctx, h.Emitter(), nil); !errors.Is(err, hub.ErrNotRunning) {
		t.Errorf("asked, and does not run: %v", err)
	}
	if pushed != "4242" {
		t.Errorf("pushed to %q, want 42 twice", pushed)
	}
	for _, emit := range []func(context.Context, *hub.Emitter) (hub.Receipt, error){emitToSeveral, emitToEveryoneBut, emitPrices} {
		if receipt, err := emit(ctx, h.Emitter()); err != nil || !receipt.Nobody() {
			t.Errorf("receipt %v, %v; want nobody", receipt, err)
		}
	}
}

func TestAnEventThatIsNotInTheListIsAnError(t *testing.T) {
	ctx := t.Context()
	b := memory.NewBus().Broker()
	defer b.Close()
	emitter := hub.NewEmitter(b, hub.EmitterOptions{Events: []string{"/users/ping", "/users/alert"}})
	_, err := emitter.Emit(ctx, hub.User("42"), "users/alert", "late")
	// errors.Is(err, hub.ErrEvent)
	if !errors.Is(err, hub.ErrEvent) {
		t.Errorf("Emit = %v", err)
	}
}

var (
	_ = registerAsAnotherKind
	_ = emitRows
)
