package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"tether/broker"
	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/server"
	"tether/hub"
)

type emitCommand struct {
	To    string   `arg:"" help:"user:ID, room:NAME, socket:ID, or everyone."`
	Event string   `arg:"" help:"Name of the event."`
	Args  []string `arg:"" optional:"" name:"argument" help:"Arguments of the event, JSON each."`

	Namespace string        `default:"/" help:"Namespace of the sockets."`
	Timeout   time.Duration `default:"5s" help:"How long the broker may take."`
	JSON      bool          `name:"json" help:"Print the receipt as JSON, as POST /emit answers it."`
}

func (emitCommand) Help() string {
	return `It goes through the broker, as the nodes do, and needs none of them: give it their broker and prefix, or their configuration file.

  tether emit user:42 /users/ping '{"hello":"world"}' --broker=redis://localhost:6379

The receipt is printed: "1 node took it", and the exit code is 0; "nobody is there", 4; "the broker cannot tell", 5. When the broker does not take it the exit code is 1.`
}

func (c *emitCommand) run(p *program, l *config.Loaded) int {
	receipt, err := c.emit(l)
	if err != nil {
		return p.end(err)
	}
	line := receipt.String()
	if c.JSON {
		text, _ := json.Marshal(server.AnswerOf(receipt)) // a number and a text
		line = string(text)
	}
	switch code := p.print(line); {
	case code != exitDone:
		return code
	case receipt.Bound == broker.Unknown:
		return exitUnknown
	case receipt.Nobody():
		return exitNobody
	}
	return exitDone
}

func (c *emitCommand) emit(l *config.Loaded) (hub.Receipt, error) {
	to, err := targetOf(c.To)
	if err != nil {
		return hub.Receipt{}, err
	}
	if problem := config.CheckEvent(c.Event); problem != "" {
		return hub.Receipt{}, &config.Mistake{Problem: problem}
	}
	args, err := argumentsOf(c.Args)
	if err != nil {
		return hub.Receipt{}, err
	}
	if strings.HasPrefix(string(l.Broker), "memory:") {
		return hub.Receipt{}, &config.Mistake{Key: "broker", Source: l.SourceOf("broker"),
			Problem: "memory:// reaches nobody outside of this process; redis://… or nats://… of the nodes is right. A node on memory:// is asked with POST /emit"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	b, err := config.OpenBroker(ctx, l.Broker)
	if err != nil {
		return hub.Receipt{}, err
	}
	receipt, err := hub.NewEmitter(b, hub.EmitterOptions{Prefix: l.Prefix}).In(c.Namespace).Emit(ctx, to, c.Event, args...)
	return receipt, errors.Join(err, b.Close())
}

// targetOf reads user:ID, room:NAME, socket:ID or everyone.
func targetOf(to string) (hub.Target, error) {
	kind, name, _ := strings.Cut(to, ":")
	switch {
	case to == "everyone":
		return hub.Everyone, nil
	case kind == "user" && name != "":
		return hub.User(name), nil
	case kind == "room" && name != "":
		return hub.Room(name), nil
	case kind == "socket" && hub.SocketID(name) != (hub.Target{}):
		return hub.SocketID(name), nil
	}
	return hub.Target{}, &config.Mistake{Problem: fmt.Sprintf("%q is nobody; user:42, room:news, socket:ID or everyone is right", to)}
}

func argumentsOf(texts []string) ([]any, error) {
	args := make([]any, len(texts))
	for i, text := range texts {
		if !json.Valid([]byte(text)) {
			return nil, &config.Mistake{Problem: fmt.Sprintf(`argument %d of the event is not JSON; a text has quotes of its own: '"hello"'`, i+1)}
		}
		args[i] = json.RawMessage(text)
	}
	return args, nil
}
