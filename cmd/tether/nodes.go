package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"tether/broker/seal"
	"tether/cluster"
	"tether/cmd/tether/internal/config"
	"tether/hub"
)

type nodesCommand struct {
	Timeout time.Duration `default:"5s" help:"How long the broker may take."`
	JSON    bool          `name:"json" help:"Print the list as JSON."`
}

func (nodesCommand) Help() string {
	return `It listens at the broker of the nodes for a second and a half, and needs none of them: give it their broker and prefix, or their configuration file.

  tether nodes --broker=redis://localhost:6379

The exit code is 4 when there is no node, and 5 when the list may be wrong: it is printed even so, and the reason after it.`
}

// listedNodes is the list in JSON.
type listedNodes struct {
	Nodes []listedNode `json:"nodes"`
	Doubt string       `json:"doubt,omitempty"` // why the list may be wrong
}

type listedNode struct {
	Name        string    `json:"name"`
	Tag         string    `json:"tag"`
	Version     string    `json:"version"`
	Address     string    `json:"address,omitempty"`
	Since       time.Time `json:"since"`
	Connections int       `json:"connections"`
	Draining    bool      `json:"draining"`
}

func (c *nodesCommand) run(p *program, l *config.Loaded) int {
	list := listedNodes{Nodes: []listedNode{}}
	err := asking(l, c.Timeout, func(ctx context.Context, e *hub.Emitter) error {
		members, err := e.Members(ctx)
		for _, m := range members {
			list.Nodes = append(list.Nodes, listedNode{m.Name, m.Tag, m.Version, m.Address, m.Since.UTC(), m.Connections, m.Draining})
		}
		if errors.Is(err, cluster.ErrIncomplete) || errors.Is(err, cluster.ErrStale) {
			list.Doubt, err = err.Error(), nil
		}
		return err
	})
	if err != nil {
		return p.end(err)
	}
	rows := make([]string, len(list.Nodes))
	for i, n := range list.Nodes {
		state := "up"
		if n.Draining {
			state = "draining"
		}
		rows[i] = fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s", n.Name, n.Connections, n.Since.Format(time.RFC3339), n.Version, n.Address, state)
	}
	lines := ""
	if len(rows) > 0 {
		lines = table("NAME\tCONNECTIONS\tSINCE\tVERSION\tADDRESS\tSTATE", rows)
	}
	code := p.outcome(lines, c.JSON, list, len(rows) == 0, nil)
	if list.Doubt == "" || code == exitFailed {
		return code
	}
	fmt.Fprintf(p.stderr, "the list may be wrong: %s\n", list.Doubt)
	return exitUnknown
}

// openTime is how long the broker may take before it counts as away, for a command that goes on for longer.
const openTime = 10 * time.Second

// asking calls ask with an emitter that gets answers from the nodes, and is no node itself. Tracers are
// told what it emits.
func asking(l *config.Loaded, timeout time.Duration, ask func(ctx context.Context, e *hub.Emitter) error, tracers ...hub.Tracer) error {
	if strings.HasPrefix(string(l.Broker), "memory:") {
		return &config.Mistake{Key: "broker", Source: l.SourceOf("broker"),
			Problem: "memory:// reaches nobody outside of this process; redis://… or nats://… of the nodes is right"}
	}
	key, err := l.ClusterKeys()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	opening, cancelOpening := context.WithTimeout(ctx, openTime)
	defer cancelOpening()
	b, err := config.OpenBroker(opening, l.Broker)
	if err != nil {
		return err
	}
	e := hub.NewEmitter(b, hub.EmitterOptions{Prefix: l.Prefix, Key: key, Tracers: tracers})
	running, stop := context.WithCancel(ctx)
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- e.Run(running, func() { close(up) }) }() // waited for below
	select {
	case <-up:
		// So that nodes have names. What else is wrong with the list, the question says too.
		if _, err = e.Members(ctx); !errors.Is(err, seal.ErrStranger) {
			err = ask(ctx, e)
		}
	case err = <-ended:
		ended <- nil
	case <-opening.Done():
		err = errors.New("the broker does not answer")
	}
	stop()
	return errors.Join(err, <-ended, b.Close())
}
