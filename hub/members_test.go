package hub

import (
	"context"
	"slices"
	"testing"

	"tether/broker/memory"
	"tether/cluster"
)

func memberNames(list []cluster.Member) (names []string) {
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names
}

func TestEveryNodeKnowsTheMembers(t *testing.T) {
	lists := make(chan []cluster.Member, 16)
	hubs := several(t, 2, Options{Version: "v7", Address: "http://10.0.0.1:3000", OnMembers: func(list []cluster.Member) { lists <- list }})
	want := []string{"node-0", "node-1"}
	for !slices.Equal(memberNames(<-lists), want) { // the hook is told
	}
	for _, h := range hubs { // one may be told twice before the other is
		var list []cluster.Member
		waitFor(t, func() bool {
			var err error
			list, err = h.Members()
			return err == nil && slices.Equal(memberNames(list), want)
		}, h.Node()+" does not know both")
		if m := list[0]; m.Version != "v7" || m.Address != "http://10.0.0.1:3000" || m.Since.IsZero() || m.Draining || len(m.Tag) != tagLength {
			t.Errorf("got %+v", m)
		}
	}
}

func TestADrainAndTheEndOfANodeAreToldAtOnce(t *testing.T) {
	lists := make(chan []cluster.Member, 16)
	bus := memory.NewBus()
	a := start(t, bus.Broker(), Options{Node: "a", OnMembers: func(list []cluster.Member) { lists <- list }})
	b, stop := startStoppable(t, bus.Broker(), Options{Node: "b"})
	await := func(ok func([]cluster.Member) bool) {
		for list := range lists {
			if ok(list) {
				return
			}
		}
	}
	await(func(list []cluster.Member) bool { return len(list) == 2 })
	begun, release := make(chan struct{}), make(chan struct{})
	b.Of("/").On("wait", func(context.Context, *Socket, *Message) error { // holds the drain up
		close(begun)
		<-release
		return nil
	})
	c, _ := connect(t, b)
	c.say(`2["wait"]`)
	<-begun
	stopped := make(chan error)
	go func() { stopped <- stop() }()
	await(func(list []cluster.Member) bool { return len(list) == 2 && list[1].Draining })
	close(release)
	await(func(list []cluster.Member) bool { return len(list) == 1 })
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if list, err := a.Members(); len(list) != 1 || err != nil {
		t.Errorf("got %v, %v", memberNames(list), err)
	}
}
