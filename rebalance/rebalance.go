// Package rebalance has nodes with more than their share of the connections give some of them up, so that their
// clients come back to nodes that have less: after a node was added, or has been restarted.
//
//	balance, err := rebalance.New(h, rebalance.Options{On: true})
//
// It is made before Run of the hub, which runs it too, on all nodes.
//
// A connection is given up as a lost network would end it, so clients connect again at once, and what balances the load
// in front of the nodes chooses where. With [hub.Options].Recovery they go on where they were, and nobody notices. Others
// miss what is emitted until they are back, as in a drain.
//
// # What a node gives up
//
// It looks at the list of members. If it has more than Options.Percent more than the mean of the nodes that take
// clients, and at least Options.Least more, it asks them how many they have now. When each of them has answered, it
// gives up what it has above the mean, no more than Options.Pace a second; and nothing when one has not. It stops when
// it has reached the mean, and when a node comes or goes.
package rebalance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tether/cluster"
	"tether/hub"
)

// Options of a Balancer. A field that is zero has its default.
type Options struct {
	// On has the node look by itself. Otherwise it does so when it is told to, see [Everywhere].
	On bool

	// Percent is how many percent more than the mean are too many. Default 20.
	Percent int

	// Least is how many connections more than the mean are too many at least. Default 50.
	Least int

	// Pace is how many connections are given up in a second. Default 20.
	Pace int

	// Interval is how often the node looks, and how long the clients of the last time have to be back. Default 30 s.
	Interval time.Duration

	// Namespaces are those in which clients are found. Default "/".
	Namespaces []string

	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// The limits of a Terms. Pace is also that of Options.
const (
	MaxPercent = 1000
	MaxPace    = 1000
)

// Terms are how much is too much, and how quickly it goes: see Options.
type Terms struct {
	Percent int `json:"percent"`
	Least   int `json:"least"`
	Pace    int `json:"pace"`
}

func (t Terms) check() error {
	switch {
	case t.Percent < 0 || t.Percent > MaxPercent:
		return fmt.Errorf("rebalance: %d percent: 0 to %d is right", t.Percent, MaxPercent)
	case t.Least < 1:
		return fmt.Errorf("rebalance: at least %d connections more: 1 or more is right", t.Least)
	case t.Pace < 1 || t.Pace > MaxPace:
		return fmt.Errorf("rebalance: %d connections a second: 1 to %d is right", t.Pace, MaxPace)
	}
	return nil
}

// Plan is what a node does.
type Plan struct {
	Connections int     `json:"connections"` // of the node
	Mean        float64 `json:"mean"`        // of the nodes that take clients
	Shed        int     `json:"shed"`        // connections that it gives up
	Why         string  `json:"why,omitempty"`
}

// Balancer is one node's part.
type Balancer struct {
	o     Options // immutable, with defaults
	hub   *hub.Hub
	node  *cluster.Node
	log   *slog.Logger
	away  away
	turns chan round // one at a time
	busy  atomic.Bool
}

// round is a plan that is carried out.
type round struct {
	plan    Plan
	pace    int
	changed <-chan struct{} // closed when the plan is out of date
}

// New returns the balancer of a hub.
func New(h *hub.Hub, o Options) (*Balancer, error) {
	for _, d := range []struct {
		field *int
		or    int
	}{{&o.Percent, 20}, {&o.Least, 50}, {&o.Pace, 20}} {
		if *d.field == 0 {
			*d.field = d.or
		}
	}
	if err := (Terms{o.Percent, o.Least, o.Pace}).check(); err != nil {
		return nil, err
	}
	if o.Interval < 0 {
		return nil, errors.New("rebalance: Options.Interval is not negative")
	}
	if o.Interval == 0 {
		o.Interval = 30 * time.Second
	}
	if len(o.Namespaces) == 0 {
		o.Namespaces = []string{"/"}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	b := &Balancer{
		o: o, hub: h, node: h.Emitter().Cluster(), log: o.Logger.With("node", h.Node()), turns: make(chan round, 1),
	}
	root := h.Of("/")
	root.OnServerSide(askConnections, func(context.Context, *hub.Message) (any, error) { return b.load(), nil })
	root.OnServerSide(askRebalance, b.told)
	b.node.Attach(b)
	return b, nil
}

func (b *Balancer) connections() int { return b.hub.Stats().Connections }

// Run implements [cluster.Service]: the hub calls it.
func (b *Balancer) Run(ctx context.Context) {
	look := time.NewTicker(b.o.Interval)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-b.turns:
			b.carryOut(ctx, r)
			b.busy.Store(false)
			look.Reset(b.o.Interval)
		case <-look.C:
			if b.o.On {
				b.begin(ctx, Terms{b.o.Percent, b.o.Least, b.o.Pace})
			}
		}
	}
}

// begin makes a plan, and has Run carry it out.
func (b *Balancer) begin(ctx context.Context, t Terms) Plan {
	if b.busy.Swap(true) {
		return Plan{Connections: b.connections(), Why: "it gives connections up already"}
	}
	changed := b.node.Changed()
	p := b.plan(ctx, t)
	if p.Shed == 0 {
		b.busy.Store(false)
		return p
	}
	b.log.Info("this node has more than its share of the connections, and gives some up",
		"connections", p.Connections, "mean", math.Round(p.Mean), "shed", p.Shed, "pace", t.Pace)
	b.turns <- round{p, t.Pace, changed} // there is room: only one that is busy sends
	return p
}

// carryOut gives connections up until the plan is done, or is out of date.
func (b *Balancer) carryOut(ctx context.Context, r round) {
	step := max(1, r.pace/10) // connections in a tenth of a second
	ticker := time.NewTicker(time.Second * time.Duration(step) / time.Duration(r.pace))
	defer ticker.Stop()
	var closing []*hub.Socket
	shed, why := 0, ""
	for shed < r.plan.Shed && why == "" {
		select {
		case <-ctx.Done():
			why = "this node ends"
		case <-r.changed:
			why = "a node has come or gone"
		case <-ticker.C:
			closing = stillThere(closing)
			own := b.connections() - len(closing)
			least, err := b.mean(r.plan, own)
			if err != nil {
				why = err.Error()
				continue
			}
			n := min(step, r.plan.Shed-shed, own-least)
			dropped := b.drop(n, closing)
			if len(dropped) == 0 {
				why = "it has no more than the mean any longer"
			}
			shed += len(dropped)
			closing = append(closing, dropped...)
		}
	}
	b.log.Info("this node has given connections up", "shed", shed, "connections", b.connections(), "ended", cmp.Or(why, "as planned"))
}

// mean is how many connections this node keeps at least: the mean of the plan, or of now if that is higher.
// What the list says of this node itself may be a second old, so own is used for it.
func (b *Balancer) mean(p Plan, own int) (int, error) {
	members, err := b.hub.Members()
	total, nodes := own, 1
	for _, m := range members {
		if !m.Draining && m.Tag != b.node.Tag() {
			total, nodes = total+m.Connections, nodes+1
		}
	}
	return max(int(math.Ceil(p.Mean)), ceil(total, nodes)), err
}

// stillThere are the sockets whose connections have not ended yet.
func stillThere(sockets []*hub.Socket) (left []*hub.Socket) {
	for _, s := range sockets {
		if s.Connected() {
			left = append(left, s)
		}
	}
	return left
}

// drop gives up n connections, those that have been there for longest in their namespace first.
func (b *Balancer) drop(n int, closing []*hub.Socket) (dropped []*hub.Socket) {
	skip := make(map[*hub.Socket]bool, len(closing))
	for _, s := range closing {
		skip[s] = true
	}
	for _, name := range b.o.Namespaces {
		for s := range b.hub.Of(name).Sockets() {
			if len(dropped) >= n { // which may be negative
				return dropped
			}
			if !skip[s] {
				s.Drop()
				b.away.add(time.Now())
				dropped = append(dropped, s)
			}
		}
	}
	return dropped
}

// awayTime is for how long a client that was given up counts as on its way to another node.
const awayTime = 10 * time.Second

// away are clients that were given up lately.
type away struct {
	mu    sync.Mutex
	times []time.Time // guarded by mu; the oldest first
}

func (a *away) add(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, now)
}

func (a *away) len(now time.Time) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	over := 0
	for over < len(a.times) && now.Sub(a.times[over]) > awayTime {
		over++
	}
	a.times = slices.Delete(a.times, 0, over)
	return len(a.times)
}
