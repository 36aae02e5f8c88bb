package backend

import (
	"errors"
	"testing"

	"tether/internal/long"
)

func TestSentinelsAgreeOnAMaster(t *testing.T) {
	long.Only(t)
	s := RedisSentinels(t, RedisProduct)
	if got := s.Master(); got != s.Nodes[0] {
		t.Errorf("the master is %v, want %v", got, s.Nodes[0])
	}
}

func TestAClusterServesAndItsSlotsCanBeMoved(t *testing.T) {
	c := RedisCluster(t, RedisProduct, 1)
	// Slot 0 belongs to the first master; "06S" hashes to it.
	if err := errors.Join(c.secured.tell(c.Nodes[0].Addr, "SET", "06S", "1"), c.MoveSlot(0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.secured.says(c.Nodes[1].Addr, "1", "GET", "06S")); err != nil {
		t.Error(err)
	}
}
