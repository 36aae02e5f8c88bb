package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

	Live bool `help:"Say, too, on how many of the nodes a client that is connected took it, apart from those that only hold it for clients that may come back."`

	Follow bool          `help:"Print what becomes of the event: when each node takes it, and each client gets it, or why not. It needs one of the nodes' admin.keys."`
	Ack    bool          `help:"With --follow: have the clients acknowledge the event."`
	Wait   time.Duration `default:"2s" help:"With --follow: how long to wait for clients that are behind, or have not acknowledged it."`
}

func (emitCommand) Help() string {
	return `It goes through the broker, as the nodes do, and needs none of them: give it their broker and prefix, or their configuration file.

  tether emit user:42 /users/ping '{"hello":"world"}' --broker=redis://localhost:6379

Where they have a list of events, emit.events, no other event is emitted.

The receipt is printed: "1 node took it", and the exit code is 0; "nobody is there", 4; "the broker cannot tell", 5. When the broker does not take it the exit code is 1. With --follow it is 5 as well when a node does not say what became of the event. With --live the nodes are asked, and the code is that of their answer: 4 where only clients that are away are waited for, "no client is connected".`
}

func (c *emitCommand) run(p *program, l *config.Loaded) int {
	to, args, err := c.check(l)
	if err != nil {
		return p.end(err)
	}
	if c.Follow {
		report, err := c.emitFollowed(l, to, args)
		if err != nil {
			return p.end(err)
		}
		return c.followed(p, report)
	}
	receipt, err := c.emit(l, to, args)
	if err != nil {
		return p.end(err)
	}
	line, counts := receipt.String(), receipt.Receipt
	if c.Live && !receipt.Nobody() {
		line, counts = line+"; "+liveText(receipt.Live), receipt.Live
	}
	if c.JSON {
		text, _ := json.Marshal(server.AnswerOf(receipt, c.Live)) // numbers and texts
		line = string(text)
	}
	switch code := p.print(line); {
	case code != exitDone:
		return code
	case counts.Bound == broker.Unknown:
		return exitUnknown
	case counts.Nobody():
		return exitNobody
	}
	return exitDone
}

// liveText says where clients that are connected took an event.
func liveText(live broker.Receipt) string {
	switch {
	case live.Bound == broker.Unknown:
		return "the nodes do not say whether a client is connected"
	case live.Nobody():
		return "no client is connected"
	case live.Bound == broker.AtLeast:
		return fmt.Sprintf("clients are connected at %d or more", live.Nodes)
	}
	return fmt.Sprintf("clients are connected at %d", live.Nodes)
}

// check says what is wrong with the command line.
func (c *emitCommand) check(l *config.Loaded) (to hub.Target, args []any, err error) {
	if to, err = targetOf(c.To); err != nil {
		return to, nil, err
	}
	if problem := config.CheckEvent(c.Event); problem != "" {
		return to, nil, &config.Mistake{Problem: problem}
	}
	if c.Ack && !c.Follow {
		return to, nil, &config.Mistake{Problem: "--ack is for --follow, which prints who has acknowledged the event"}
	}
	if c.Live && c.Follow {
		return to, nil, &config.Mistake{Problem: "--follow prints which clients the event waits for; --live is for the receipt without it"}
	}
	if c.Wait < 0 || c.Wait > time.Minute {
		return to, nil, &config.Mistake{Problem: fmt.Sprintf("--wait=%v is not between 0s and 1m", c.Wait)}
	}
	if events := l.Emit.Events; len(events) > 0 && !slices.Contains(events, c.Event) {
		return to, nil, &config.Mistake{Key: "emit.events", Source: l.SourceOf("emit.events"),
			Problem: fmt.Sprintf("%.64q is none of the events that may be emitted", c.Event)}
	}
	args, err = argumentsOf(c.Args)
	return to, args, err
}

func (c *emitCommand) emit(l *config.Loaded, to hub.Target, args []any) (receipt hub.Receipt, err error) {
	if c.Live {
		err = asking(l, c.Timeout, func(ctx context.Context, e *hub.Emitter) error {
			receipt, err = e.In(c.Namespace).AskLive().Emit(ctx, to, c.Event, args...)
			return err
		})
		return receipt, err
	}
	if strings.HasPrefix(string(l.Broker), "memory:") {
		return hub.Receipt{}, &config.Mistake{Key: "broker", Source: l.SourceOf("broker"),
			Problem: "memory:// reaches nobody outside of this process; redis://… or nats://… of the nodes is right. A node on memory:// is asked with POST /emit"}
	}
	key, err := l.ClusterKeys()
	if err != nil {
		return hub.Receipt{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	b, err := config.OpenBroker(ctx, l.Broker)
	if err != nil {
		return hub.Receipt{}, err
	}
	receipt, err = hub.NewEmitter(b, hub.EmitterOptions{Prefix: l.Prefix, Key: key}).In(c.Namespace).Emit(ctx, to, c.Event, args...)
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
