package server

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tether/cluster"
)

func TestNodesThatAreLostAreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g goneNodes
		node := func(i int) cluster.Member { return cluster.Member{Name: "n", Tag: fmt.Sprint(i)} }
		tags := func() (all []string) {
			for _, n := range g.list() {
				all = append(all, n.Tag)
			}
			return all
		}
		drained := node(2)
		drained.Draining = true
		g.changed([]cluster.Member{node(0), node(1), drained})
		g.changed([]cluster.Member{node(0)})
		if got := tags(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("gone: %v, want 1, and not 2, which has said so", got)
		}
		views := []NodeView{{Tag: "0", Status: &NodeStatus{Gone: g.list()}}, {Tag: "3", Status: &NodeStatus{Gone: g.list()}}, {Tag: "4"}}
		if got := goneOf(views); len(got) != 1 {
			t.Errorf("two nodes have lost one: %v", got)
		}
		if got := goneOf(append(views, NodeView{Tag: "1"})); len(got) != 0 {
			t.Errorf("a node that somebody hears is not gone: %v", got)
		}
		again := NodeView{Name: "n", Tag: "5", Since: time.Now().Add(-3 * time.Second)} // it was not known yet that 1 was gone
		if got := goneOf(append(views, again)); len(got) != 0 {
			t.Errorf("a node that has started again is gone: %v", got)
		}
		again.Since = time.Now().Add(-time.Hour)
		if got := goneOf(append(views, again)); len(got) != 1 {
			t.Errorf("another one of that name has been there all the time: gone are %v", got)
		}
		g.changed([]cluster.Member{node(0), node(1)})
		if got := tags(); len(got) != 0 {
			t.Errorf("it is back, and %v are gone", got)
		}
		g.changed([]cluster.Member{node(0)})
		time.Sleep(goneFor)
		if got := tags(); len(got) != 1 {
			t.Errorf("after ten minutes: %v", got)
		}
		time.Sleep(time.Nanosecond)
		if got := tags(); len(got) != 0 {
			t.Errorf("and later: %v", got)
		}
		var many []cluster.Member
		for i := range maxGone + 1 {
			many = append(many, node(i))
		}
		g.changed(many)
		g.changed(nil)
		if got := tags(); len(got) != maxGone || got[0] != "1" {
			t.Errorf("%d are remembered, from %v on", len(got), got[0])
		}
	})
}
