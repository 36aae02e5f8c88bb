package presence_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/hubtest"
	"tether/presence"
)

func TestANodeThatDoesNotAnswerHidesNobodyOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		c := hubtest.NewCluster(t)
		a, b, silent := c.Node(l.setup(0, false)), c.Node(l.setup(0, false)), c.Node(l.setup(0, false))
		if _, err := a.Hub.Emitter().Members(t.Context()); err != nil {
			t.Fatal(err)
		}
		users := make([]hub.Target, 20_000) // more questions than are under way at once
		for i := range users {
			users[i] = hub.User(fmt.Sprint("user-", i))
		}
		for i := 0; i < len(users); i += 1000 {
			[]*hubtest.Node{a, b}[i/1000%2].Connect(as(users[i].Name()))
		}
		silent.Silence()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // less than until it is off the list
		defer cancel()
		list, missing, err := presence.Online(ctx, a.Hub.Emitter(), users...)
		if err != nil || len(missing) != 1 || missing[0].Node.Tag != silent.Hub.Emitter().Cluster().Tag() || !errors.Is(missing[0].Why, cluster.ErrLate) {
			t.Error(missing, err)
		}
		for i, s := range list {
			if s.User != users[i] || s.Online() != (i%1000 == 0) {
				t.Errorf("%v is online: %v", s.User, s.Online())
			}
		}
		silent.Heal()
	})
}

func TestANodeWhoseAnswerCannotBeReadIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := c.Node(roomSetup(presence.Options{})), c.Node(roomSetup(presence.Options{}))
		a.Connect(guest{Name: "ann"})
		b.Connect(guest{Name: "ben"})
		node := b.Hub.Emitter().Cluster()
		for _, topic := range []byte{presence.TopicOnline, presence.TopicRooms} {
			node.Handle(topic, func(ctx context.Context, q *cluster.Request) error { return q.Send(ctx, []byte{9, 'x'}) })
		}
		lost := func(missing []cluster.Missing, err error) {
			t.Helper()
			if err != nil || len(missing) != 1 || missing[0].Node.Tag != node.Tag() || !errors.Is(missing[0].Why, cluster.ErrUnreadable) {
				t.Error(missing, err)
			}
		}
		list, missing, err := presence.InRoom(t.Context(), a.Hub.Emitter(), tea)
		if lost(missing, err); len(list) != 1 || list[0].Name != "ann" {
			t.Error(list)
		}
		_, missing, err = presence.Online(t.Context(), a.Hub.Emitter(), hub.User("ann"), hub.User("ben"))
		lost(missing, err)
	})
}
