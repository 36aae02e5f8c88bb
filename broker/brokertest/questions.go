package brokertest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"tether/broker"
)

// What package cluster needs of a driver, beside the rest of the suite: a node that hears its own
// messages knows that its link is well, and a receipt says how many answers come.
var questions = []test{
	{"a node hears itself, and is counted", testHearsItself},
	{"as many answers come as the receipt counts", testAnswers},
}

func testHearsItself(t *testing.T, h Harness) {
	nodes := []*node{start(t, h), start(t, h), start(t, h)}
	for _, n := range nodes {
		n.subscribe("members")
	}
	for i, n := range nodes {
		wantReach(t, h, publish(t, n.b, "members", fmt.Sprint(i)), len(nodes))
	}
	for _, n := range nodes {
		n.await("what all have said", func() bool { return len(n.got["members"]) >= len(nodes) })
	}
}

// testAnswers asks as often as it can: each question is answered on the asker's own subject by all nodes,
// the asker included, and not from Deliver, which must not call the broker.
func testAnswers(t *testing.T, h Harness) {
	const nodes, rounds = 3, 50
	asker := start(t, h)
	asker.subscribe("room", "asker")
	all := []*node{asker}
	for range nodes - 1 {
		n := start(t, h)
		n.subscribe("room")
		all = append(all, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	failed := make(chan error, nodes)
	for i, n := range all {
		go func() { failed <- answerAll(ctx, n, i, rounds) }() // received below
	}
	for round := range rounds {
		wantReach(t, h, publish(t, asker.b, "room", fmt.Sprint(round)), nodes)
		asker.await("the answers", func() bool { return len(asker.got["asker"]) == nodes*(round+1) })
	}
	for range all {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// answerAll answers so many questions as they come.
func answerAll(ctx context.Context, n *node, name, rounds int) error {
	for answered := 0; answered < rounds && ctx.Err() == nil; {
		if len(n.received("room")) == answered {
			n.within(100*time.Millisecond, func() bool { return len(n.got["room"]) > answered })
			continue
		}
		if _, err := n.b.Publish(ctx, broker.Message{Subject: "asker", Data: fmt.Appendf(nil, "%d/%d", name, answered)}); err != nil {
			return err
		}
		answered++
	}
	return ctx.Err()
}
