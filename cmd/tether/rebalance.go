package main

import (
	"context"
	"fmt"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/server"
	"tether/hub"
	"tether/rebalance"
)

type rebalanceCommand struct {
	Percent int           `default:"20" help:"How many percent more than the mean of the nodes are too many. 0 to 1000."`
	Least   int           `default:"1" help:"How many connections more than the mean are too many at least."`
	Pace    int           `default:"20" help:"How many connections each node gives up in a second. 1 to 1000."`
	Timeout time.Duration `default:"10s" help:"How long the nodes may take to answer."`
	JSON    bool          `name:"json" help:"Print the answers of the nodes as JSON."`
}

func (rebalanceCommand) Help() string {
	return "Each node that has more than its share of the connections gives up what it has above the mean, at a pace that it keeps: it has begun when this returns. The clients connect again at once, to the node that the load balancer chooses; with recovery.on they go on where they were. A node gives nothing up while another one does not say how many connections it has.\n\n  tether rebalance --broker=redis://localhost:6379" + throughBroker
}

// nodePlan is what a node does, in JSON.
type nodePlan struct {
	Node string `json:"node"`
	rebalance.Plan
}

func (c *rebalanceCommand) run(p *program, l *config.Loaded) int {
	out := struct {
		Nodes   []nodePlan       `json:"nodes"`
		Missing []server.Missing `json:"missing"`
	}{Nodes: []nodePlan{}}
	err := asking(l, c.Timeout, func(ctx context.Context, e *hub.Emitter) error {
		plans, missing, err := rebalance.Everywhere(ctx, e, rebalance.Terms{Percent: c.Percent, Least: c.Least, Pace: c.Pace})
		for _, n := range plans {
			out.Nodes = append(out.Nodes, nodePlan{n.Node.Name, n.Plan})
		}
		out.Missing = server.MissingOf(missing)
		return err
	})
	if err != nil {
		return p.end(err)
	}
	rows := make([]string, len(out.Nodes))
	for i, n := range out.Nodes {
		does := "nothing: " + n.Why
		if n.Shed > 0 {
			does = fmt.Sprintf("gives up %d in %v", n.Shed, time.Second*time.Duration((n.Shed+c.Pace-1)/c.Pace))
		}
		rows[i] = fmt.Sprintf("%s\t%d\t%.1f\t%s", n.Node, n.Connections, n.Mean, does)
	}
	lines := ""
	if len(rows) > 0 {
		lines = table("NODE\tCONNECTIONS\tMEAN\tDOES", rows)
	}
	return p.outcome(lines, c.JSON, out, len(rows) == 0, out.Missing)
}
