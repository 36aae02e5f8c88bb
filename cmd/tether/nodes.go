package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/hub"
)

type nodesCommand struct {
	Timeout time.Duration `default:"5s" help:"How long the broker may take."`
	JSON    bool          `name:"json" help:"Print the list as JSON."`
}

func (nodesCommand) Help() string {
	return `It listens at the broker of the nodes for a second and a half, and needs none of them: give it their broker and prefix, or their configuration file.

  tether nodes --broker=redis://localhost:6379`
}

// listedNode is a node in JSON.
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
	members, err := c.list(l)
	if err != nil {
		return p.end(err)
	}
	if c.JSON {
		list := make([]listedNode, len(members))
		for i, m := range members {
			list[i] = listedNode{m.Name, m.Tag, m.Version, m.Address, m.Since.UTC(), m.Connections, m.Draining}
		}
		text, _ := json.Marshal(list) // texts and numbers
		return p.print(string(text))
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tCONNECTIONS\tSINCE\tVERSION\tADDRESS\tSTATE")
	for _, m := range members {
		state := "up"
		if m.Draining {
			state = "draining"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", m.Name, m.Connections, m.Since.UTC().Format(time.RFC3339), m.Version, m.Address, state)
	}
	w.Flush()
	return p.print(strings.TrimSuffix(b.String(), "\n"))
}

func (c *nodesCommand) list(l *config.Loaded) (members []hub.Member, err error) {
	if strings.HasPrefix(string(l.Broker), "memory:") {
		return nil, &config.Mistake{Key: "broker", Source: l.SourceOf("broker"),
			Problem: "memory:// reaches nobody outside of this process; redis://… or nats://… of the nodes is right"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	b, err := config.OpenBroker(ctx, l.Broker)
	if err != nil {
		return nil, err
	}
	e := hub.NewEmitter(b, hub.EmitterOptions{Prefix: l.Prefix})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(running, nil) }() // waited for below
	members, err = e.Members(ctx)
	stop()
	return members, errors.Join(err, <-ended, b.Close())
}
