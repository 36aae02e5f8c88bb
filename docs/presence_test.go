package docs

import (
	"context"
	"log"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
	"tether/presence"
)

// The code of the guide to presence.

func newHubWithPresence(b broker.Broker, notify func(ctx context.Context, e presence.Event)) (*hub.Hub, error) {
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		return nil, err
	}
	_, err = presence.New(h, presence.Options{OnChange: notify})
	return h, err
}

func printFriends(ctx context.Context, e *hub.Emitter, friends ...hub.Target) error {
	list, missing, err := presence.Online(ctx, e, friends...)
	if err != nil {
		return err
	}
	for _, s := range list {
		for _, d := range s.Devices {
			log.Print(s.User.Name(), " is on ", d.Node.Name, " by ", d.Transport, " since ", d.Since)
		}
	}
	for _, m := range missing {
		log.Print("nothing is known of the devices on ", m.Node.Name, ": ", m.Why)
	}
	return nil
}

func enter(ctx context.Context, p *presence.Presence, s *hub.Socket, user, room string) error {
	if err := p.Enter(ctx, s, hub.Room(room), user, map[string]string{"mood": "fine"}); err != nil {
		return err
	}
	return p.WatchRoom(ctx, s, hub.Room(room))
}

func TestTheCodeOfTheGuideToRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, func(b broker.Broker) (*hub.Hub, error) {
			h, err := newHubWithPresence(b, nil)
			if err == nil {
				h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
					return enter(ctx, presence.Of(h), s, "ann", "tea")
				})
			}
			return h, err
		})
		var change presence.RoomChange
		for ann := node.Connect(nil); len(change.Came) == 0; { // the whole may be from before
			ann.Expect("presence", &change)
		}
		if m := change.Came[0]; m.Name != "ann" || string(m.Data) != `{"mood":"fine"}` {
			t.Errorf("%+v", change)
		}
	})
}

func TestTheCodeOfTheGuideToPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan presence.Event, 10)
		node := hubtest.Start(t, func(b broker.Broker) (*hub.Hub, error) {
			h, err := newHubWithPresence(b, func(_ context.Context, e presence.Event) { told <- e })
			if err == nil {
				h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "ann") })
			}
			return h, err
		})
		ann := node.Connect(nil)
		if e := <-told; !e.Online || e.User != hub.User("ann") || e.Namespace != "/" {
			t.Errorf("%+v", e)
		}
		if err := printFriends(t.Context(), node.Hub.Emitter(), hub.User("ann"), hub.User("ben")); err != nil {
			t.Error(err)
		}
		began := time.Now()
		ann.Close()
		if e := <-told; e.Online || time.Since(began) != 10*time.Second {
			t.Errorf("%+v after %v", e, time.Since(began))
		}
	})
}
