package main

import (
	"fmt"

	"tether/broker/seal"
	"tether/cmd/tether/internal/config"
)

type checkConfigCommand struct{}

func (checkConfigCommand) Help() string {
	return "It is that of tether serve, from the same flags, variables and file. The exit code is 0 if it is good, and 2 if it is not."
}

func (checkConfigCommand) run(p *program, l *config.Loaded) int {
	key, err := l.ClusterKeys()
	if err != nil {
		return p.end(err)
	}
	line := fmt.Sprintf("The configuration is good. A node may take %v to stop: give what stops it longer than that.", l.StopTime())
	if key.Current != (seal.Key{}) {
		line += fmt.Sprintf(" Its key has the ID %s, which must be the same on all nodes and workers.", key.Current.ID())
	}
	return p.print(line)
}

type printConfigCommand struct{}

func (printConfigCommand) Help() string {
	return "It is that of tether serve, from the same flags, variables and file. What is printed is a configuration file, but for the secrets."
}

func (printConfigCommand) run(p *program, l *config.Loaded) int { return p.end(l.Print(p.stdout)) }
