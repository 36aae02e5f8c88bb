package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"tether/broker"
	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/server"
	"tether/follow"
	"tether/hub"
)

type followCommand struct {
	To string `arg:"" optional:"" help:"user:ID, room:NAME, socket:ID, or everyone. Without it the latest events that nodes have followed are printed."`

	For     time.Duration `default:"1m" help:"For how long the nodes follow what they emit to it, an hour at most."`
	Timeout time.Duration `default:"10s" help:"How long the nodes may take to answer."`
	JSON    bool          `name:"json" help:"Print each event as an object in a line."`
}

func (followCommand) Help() string {
	return `It prints what becomes of events: when each node took one, and for each client when it was queued and written, or why it was dropped. Names of events that its sockets send are printed, too. Of emits, those of nodes are followed, through their API too; a worker has package follow, and tether emit has --follow.

  tether follow user:42 --for=5m --broker=redis://localhost:6379 --admin.keys=file:/etc/tether/admin.keys

It needs one of the nodes' admin.keys. A node without that setting follows nothing, and is named as missing. Names of events are printed, arguments never.` + throughBroker
}

// followAge is how long an event may take until it is printed as it is.
const followAge = 5 * time.Second

func (c *followCommand) run(p *program, l *config.Loaded) int {
	if c.For < time.Second || c.For > time.Hour {
		return p.end(&config.Mistake{Problem: fmt.Sprintf("--for=%v is not between 1s and 1h", c.For)})
	}
	f, err := followerOf(l)
	if err != nil {
		return p.end(err)
	}
	var missing []follow.Missing
	printed := 0
	err = asking(l, c.For+c.Timeout, func(ctx context.Context, e *hub.Emitter) error {
		if c.To == "" {
			report, err := f.Ask(ctx, e, follow.Query{})
			if err != nil {
				return err
			}
			missing, printed = report.Missing, len(report.Events)
			return c.print(p.stdout, report.Events)
		}
		missing, printed, err = c.follow(ctx, p.stdout, f, e)
		return err
	}, f)
	if err != nil {
		return p.end(err)
	}
	out := make([]server.Missing, len(missing))
	for i, m := range missing {
		out[i] = server.Missing{Node: m.Node, Why: m.Why}
	}
	return p.outcome("", false, nil, printed == 0, out)
}

// follow has the nodes follow the target, and prints events once nothing more is to come of them.
func (c *followCommand) follow(ctx context.Context, w io.Writer, f *follow.Follower, e *hub.Emitter) (missing []follow.Missing, printed int, err error) {
	to, err := targetOf(c.To)
	if err != nil {
		return nil, 0, err
	}
	if missing, err = f.Rule(ctx, e, to, c.For); err != nil {
		return nil, 0, err
	}
	done := map[follow.ID]bool{}
	for end := time.Now().Add(c.For); ; time.Sleep(min(time.Second, max(time.Until(end), 0))) {
		last := !time.Now().Before(end)
		report, err := f.Ask(ctx, e, follow.Query{To: to})
		if err != nil {
			return missing, len(done), err
		}
		missing = missed(missing, report.Missing)
		var fresh []follow.Event
		for _, ev := range report.Events {
			if !done[ev.ID] && (last || ev.Settled(false) || time.Since(ev.At) > followAge) {
				done[ev.ID] = true
				fresh = append(fresh, ev)
			}
		}
		if err := c.print(w, fresh); err != nil || last {
			return missing, len(done), err
		}
	}
}

func (c *followCommand) print(w io.Writer, events []follow.Event) (err error) {
	for _, ev := range events {
		text := (&follow.Report{Events: []follow.Event{ev}}).String()
		if c.JSON {
			line, _ := json.Marshal(ev) // texts and numbers
			text = string(line) + "\n"
		}
		if _, err = io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

// followerOf follows with the keys of the operators.
func followerOf(l *config.Loaded) (*follow.Follower, error) {
	keys, err := config.Expand(l.Admin.Keys)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, &config.Mistake{Key: "admin.keys", Source: l.SourceOf("admin.keys"),
			Problem: "events are followed with one of the nodes' admin.keys only"}
	}
	return follow.New(follow.Options{Keys: server.Texts(keys), Node: "tether emit"})
}

// emitFollowed emits the event, and returns what became of it.
func (c *emitCommand) emitFollowed(l *config.Loaded, to hub.Target, args []any) (*follow.Report, error) {
	f, err := followerOf(l)
	if err != nil {
		return nil, err
	}
	var report *follow.Report
	err = asking(l, c.Timeout+c.Wait, func(ctx context.Context, e *hub.Emitter) error {
		ctx, ids := follow.Context(ctx)
		if err := c.publish(ctx, e.In(c.Namespace), to, args); err != nil {
			return err
		}
		var missing []follow.Missing
		for end := time.Now().Add(c.Wait); ; time.Sleep(100 * time.Millisecond) {
			if report, err = f.Ask(ctx, e, follow.Query{IDs: ids()}); err != nil {
				return err
			}
			missing = missed(missing, report.Missing)
			report.Missing = missing
			if !time.Now().Before(end) || len(report.Events) == 1 && report.Events[0].Settled(c.Ack) {
				return nil
			}
		}
	}, f)
	return report, err
}

// missed adds the nodes that are missing now to those that were before: one that is off the list by now has said nothing
// all the same.
func missed(before, now []follow.Missing) []follow.Missing {
	for _, m := range now {
		if !slices.ContainsFunc(before, func(o follow.Missing) bool { return o.Node == m.Node }) {
			before = append(before, m)
		}
	}
	return before
}

// publish emits the event, or has clients acknowledge it.
func (c *emitCommand) publish(ctx context.Context, e *hub.Emitter, to hub.Target, args []any) error {
	if !c.Ack {
		_, err := e.Emit(ctx, to, c.Event, args...)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	answers := e.EmitAck(ctx, to, c.Event, args...)
	for range answers.All { // what they say is in the report
	}
	return answers.Err()
}

// followed prints what became of the event. The exit code is that of its receipt.
func (c *emitCommand) followed(p *program, report *follow.Report) int {
	ev := report.Events[0]
	text := (&follow.Report{Events: report.Events}).String()
	if c.JSON {
		line, _ := json.Marshal(report) // texts and numbers
		text = string(line) + "\n"
	}
	if _, err := io.WriteString(p.stdout, text); err != nil {
		return p.end(err)
	}
	for _, m := range report.Missing {
		fmt.Fprintf(p.stderr, "%s is missing: %s\n", m.Node, m.Why)
	}
	unknown := broker.Receipt{Bound: broker.Unknown}.String()
	switch {
	case len(report.Missing) > 0 || len(ev.Receipts) > 0 && ev.Receipts[0] == unknown:
		return exitUnknown
	case ev.Nobody || c.Ack && len(ev.Arrivals) == 0:
		return exitNobody
	}
	return exitDone
}
