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
	"tether/cmd/tether/internal/server"
	"tether/hub"
	"tether/revoke"
)

// The commands that ask all nodes, or change something on all of them.

// throughBroker is what their help ends with.
const throughBroker = `

It goes through the broker, as the nodes do, and needs none of them: give it their broker and prefix, or their configuration file.

The exit code is 4 when nobody is there, and 5 when nodes are missing, which are named: then there may be more.`

// outcome prints what has come of a question, and names the nodes that are missing.
func (p *program) outcome(lines string, asJSON bool, answer any, nobody bool, missing []server.Missing) int {
	if asJSON {
		text, err := json.Marshal(answer)
		if err != nil {
			return p.end(err)
		}
		lines = string(text)
	}
	if lines != "" {
		if code := p.print(lines); code != exitDone {
			return code
		}
	}
	for _, m := range missing {
		name := m.Node
		if name == "" {
			name = "a node whose name is not known"
		}
		fmt.Fprintf(p.stderr, "%s is missing: %s\n", name, m.Why)
	}
	switch {
	case len(missing) > 0:
		return exitUnknown
	case nobody:
		return exitNobody
	}
	return exitDone
}

// table lays lines out whose cells are separated by tabs.
func table(head string, rows []string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for _, row := range rows {
		fmt.Fprintln(w, row)
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

type whoCommand struct {
	Of string `arg:"" default:"everyone" help:"user:ID, room:NAME, socket:ID, connection:ID as tether top and the log name it, or everyone."`

	Namespace string        `default:"/" help:"Namespace of the sockets."`
	Limit     int           `default:"1000" help:"Sockets that are listed at most. 0: all."`
	Timeout   time.Duration `default:"10s" help:"How long the nodes may take."`
	JSON      bool          `name:"json" help:"Print an object as POST /sockets answers it."`
}

func (whoCommand) Help() string {
	return `It lists the sockets of all nodes, with the rooms that each is in.

  tether who user:42 --broker=redis://localhost:6379

For a connection all sockets are asked, which takes a moment with many.` + throughBroker
}

func (c *whoCommand) run(p *program, l *config.Loaded) int {
	of, connection := hub.Everyone, ""
	if kind, id, _ := strings.Cut(c.Of, ":"); kind == "connection" && id != "" {
		connection = id
	} else {
		var err error
		if of, err = targetOf(c.Of); err != nil {
			return p.end(err)
		}
	}
	var found server.Sockets
	err := asking(l, c.Timeout, func(ctx context.Context, e *hub.Emitter) (err error) {
		found, err = server.SocketsOf(ctx, e.In(c.Namespace), of, connection, hub.FetchOptions{Rooms: true}, c.Limit)
		return err
	})
	if err != nil {
		return p.end(err)
	}
	rows := make([]string, len(found.Sockets))
	for i, s := range found.Sockets {
		rows[i] = fmt.Sprintf("%s\t%s\t%s\t%s\t%s", s.Connection, s.ID, s.Node, s.Transport, strings.Join(s.Rooms[1:], " "))
	}
	if found.More {
		rows = append(rows, fmt.Sprintf("and more than these %d", len(rows)))
	}
	lines := ""
	if len(rows) > 0 {
		lines = table("CONNECTION\tSOCKET\tNODE\tTRANSPORT\tROOMS", rows)
	}
	return p.outcome(lines, c.JSON, found, len(rows) == 0, found.Missing)
}

type onlineCommand struct {
	Users []string `arg:"" name:"user" help:"IDs of users."`

	Namespace string        `default:"/" help:"Namespace of the users."`
	Timeout   time.Duration `default:"10s" help:"How long the nodes may take."`
	JSON      bool          `name:"json" help:"Print an object as POST /online answers it."`
}

func (onlineCommand) Help() string {
	return "It says of each user whether they are online, and lists their devices.\n\n  tether online 42 43 --broker=redis://localhost:6379" + throughBroker
}

func (c *onlineCommand) run(p *program, l *config.Loaded) int {
	var users server.Users
	err := asking(l, c.Timeout, func(ctx context.Context, e *hub.Emitter) (err error) {
		users, err = server.UsersOf(ctx, e.In(c.Namespace), c.Users)
		return err
	})
	if err != nil {
		return p.end(err)
	}
	var rows []string
	nobody := true
	for _, id := range c.Users {
		u := users.Users[id]
		switch {
		case u.Online == nil:
			rows = append(rows, id+"\tnot known")
		case !*u.Online:
			rows = append(rows, id+"\toffline")
		}
		for _, d := range u.Devices {
			nobody = false
			rows = append(rows, fmt.Sprintf("%s\tonline\t%s\t%s\t%s\t%s", id, d.Socket, d.Node, d.Transport, d.Since.Format(time.RFC3339)))
		}
	}
	return p.outcome(table("USER\tSTATE\tSOCKET\tNODE\tTRANSPORT\tSINCE", rows), c.JSON, users, nobody, users.Missing)
}

type kickCommand struct {
	To string `arg:"" help:"user:ID, room:NAME, socket:ID, or everyone."`

	Namespace string        `default:"/" help:"Namespace of the sockets."`
	Close     bool          `help:"End the connections too, and not only the namespace."`
	Timeout   time.Duration `default:"10s" help:"How long the nodes may take."`
	JSON      bool          `name:"json" help:"Print an object as POST /disconnect answers it."`
}

func (kickCommand) Help() string {
	return "It disconnects sockets on all nodes. They may connect again; tether revoke keeps them out.\n\n  tether kick user:42 --broker=redis://localhost:6379" + throughBroker
}

func (c *kickCommand) run(p *program, l *config.Loaded) int {
	to, err := targetOf(c.To)
	if err != nil {
		return p.end(err)
	}
	var changed hub.Changed
	err = asking(l, c.Timeout, func(ctx context.Context, e *hub.Emitter) (err error) {
		changed, err = e.In(c.Namespace).Disconnect(ctx, to, c.Close)
		return err
	})
	if err != nil {
		return p.end(err)
	}
	return p.ended(changed, c.JSON)
}

// ended says how many sockets have ended.
func (p *program) ended(changed hub.Changed, asJSON bool) int {
	out := server.ChangedOf(changed)
	return p.outcome(fmt.Sprintf("%d sockets on %d nodes have been told to go", out.Sockets, out.Nodes), asJSON, out, out.Sockets == 0, out.Missing)
}

type revokeCommand struct {
	User   string    `placeholder:"ID" help:"Tokens of this user."`
	Token  string    `placeholder:"ID" help:"The token with this ID, which tether token open shows."`
	Before time.Time `placeholder:"TIME" help:"Tokens that were issued before, 2026-01-02T15:04:05Z."`

	Timeout time.Duration `default:"10s" help:"How long the nodes may take."`
	JSON    bool          `name:"json" help:"Print an object as POST /revoke answers it."`
}

func (revokeCommand) Help() string {
	return `It ends the sockets of tokens on all nodes, and keeps them out for as long as revoke.lifetime says. A token fits if it fits all that is given. A node that is missing has not confirmed it.

  tether revoke --user=42 --before=2026-01-02T15:04:05Z --broker=redis://localhost:6379` + throughBroker
}

func (c *revokeCommand) run(p *program, l *config.Loaded) int {
	r := revoke.Rule{Token: c.Token, Before: c.Before}
	if c.User != "" {
		r.User = hub.User(c.User)
	}
	if r == (revoke.Rule{}) {
		return p.end(&config.Mistake{Problem: "--user, --token or --before is needed"})
	}
	var changed hub.Changed
	err := asking(l, c.Timeout, func(ctx context.Context, e *hub.Emitter) (err error) {
		changed, err = revoke.Everywhere(ctx, e, r)
		return err
	})
	if errors.Is(err, revoke.ErrBefore) {
		err = &config.Mistake{Problem: "--before is more than a minute from now, or before 1970"}
	}
	if err != nil {
		return p.end(err)
	}
	return p.ended(changed, c.JSON)
}
