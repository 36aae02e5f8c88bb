package simbroker

import (
	"errors"
	"sync"
	"time"

	"tether/broker"
)

// The times of the simulated broker. They are those that package broker allows.
const (
	lanes            = 4                       // of deliveries to one node, each in order
	maxTravel        = 5 * time.Millisecond    // of a message, one way
	MaxSlow          = 400 * time.Millisecond  // that a slow node takes for a message
	backlog          = 48                      // messages for a slow node, past which it is cut off
	Patience         = 2 * time.Second         // until a node notices that its link is silent
	PublishFails     = 1500 * time.Millisecond // until Publish gives up on a silent link
	unsubscribeFails = 2 * Patience            // until Unsubscribe does
	unsubscribeLook  = 50 * time.Millisecond   // between two looks at whether it goes on
	minReap          = 3 * time.Second         // until the others no longer count a silent node
	maxReap          = 5 * time.Second
	maxReconnect     = 250 * time.Millisecond
	beat             = 500 * time.Millisecond // between two signs of life, so how much older a gap may begin
)

var errSilent = errors.New("simbroker: link is silent")

// Options of a Cluster.
type Options struct {
	Seed  uint64       // of what is left to chance
	Bound broker.Bound // of its receipts
	Calm  bool         // nothing takes time by itself: what is sent arrives at once
}

// Cluster is the backend of a simulated broker, and the network to it.
type Cluster struct {
	options Options // immutable

	mu    sync.Mutex
	ails  map[uint32]error // guarded by mu; parts of the backend that take no new subscriptions, and why
	up    bool             // guarded by mu
	peers []*Peer          // guarded by mu
}

// New returns a backend that is up and knows no node. It needs no closing.
func New(o Options) *Cluster {
	return &Cluster{options: o, up: true, ails: make(map[uint32]error)}
}
