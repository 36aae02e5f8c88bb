package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/server"
	"tether/hub"
)

type topCommand struct {
	Every time.Duration `default:"2s" help:"How often the nodes are asked."`
	Once  bool          `help:"Print it once, with rates over a second, and end. So it is where the output is no terminal."`
	JSON  bool          `name:"json" help:"Print what the nodes say of themselves as JSON, once."`
}

func (topCommand) Help() string {
	return `What the page of admin.addr shows, in a terminal, until Ctrl-C. It asks through the broker of the nodes, and needs none of them: give it their broker and prefix, or their configuration file.

  tether top --broker=redis://localhost:6379

STATE says what is wrong with a node: it drains, is not ready, is silent (it is on the list and does not answer), or is gone: since tether top began, or in the ten minutes before, as other nodes say. The clients for which most is waiting come below; tether who finds a user.`
}

func (c *topCommand) run(p *program, l *config.Loaded) int {
	if c.Every < 100*time.Millisecond {
		return p.end(&config.Mistake{Problem: fmt.Sprintf("--every=%v is too often; 100ms is right", c.Every)})
	}
	screen := isTerminal(p.stdout) && !c.Once && !c.JSON
	return p.end(asking(l, math.MaxInt64, func(ctx context.Context, e *hub.Emitter) error {
		var t top
		if err := t.ask(ctx, e); err != nil || c.JSON {
			if err == nil {
				text, _ := json.Marshal(t.view()) // texts and numbers
				_, err = fmt.Fprintln(p.stdout, string(text))
			}
			return err
		}
		for {
			pause := c.Every
			if !screen {
				pause = time.Second
			}
			time.Sleep(pause)
			if err := t.ask(ctx, e); err != nil {
				return err
			}
			text := t.String()
			if screen {
				text = "\x1b[H\x1b[2J" + text
			}
			if _, err := io.WriteString(p.stdout, text); err != nil || !screen {
				return err
			}
		}
	}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// top is what is known of the nodes.
type top struct {
	nodes     map[string]*topNode // by tag
	lost      []server.GoneNode   // that other nodes have lost
	uncertain error
	at        time.Time
}

type topNode struct {
	server.NodeView
	before       *server.NodeStatus
	at, beforeAt time.Time
	gone         time.Time // since when it is not on the list
}

// goneFor is how long a node that is gone is shown.
const goneFor = 10 * time.Minute

// ask asks all nodes.
func (t *top) ask(ctx context.Context, e *hub.Emitter) error {
	members, err := e.Members(ctx)
	if errors.Is(err, hub.ErrNotRunning) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	t.at, t.uncertain = time.Now(), err
	t.see(server.ViewCluster(ctx, e, members, "", nil))
	return nil
}

// see notes down what has been answered.
func (t *top) see(views []server.NodeView) {
	if t.nodes == nil {
		t.nodes = map[string]*topNode{}
	}
	seen := map[string]bool{}
	t.lost = server.NewView(t.at, views).Gone
	for _, v := range views {
		seen[v.Tag] = true
		n := t.nodes[v.Tag]
		if n == nil {
			n = &topNode{}
			t.nodes[v.Tag] = n
		}
		n.before, n.beforeAt = n.Status, n.at
		n.NodeView, n.at, n.gone = v, t.at, time.Time{}
	}
	for tag, n := range t.nodes {
		if seen[tag] {
			continue
		}
		if n.gone.IsZero() {
			n.gone = t.at
		}
		if t.at.Sub(n.gone) > goneFor || server.Back(views, n.Name, n.gone) {
			delete(t.nodes, tag)
		}
	}
}

func (t *top) sorted() (list []*topNode) {
	for _, n := range t.nodes {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *topNode) int { return strings.Compare(a.Name+a.Tag, b.Name+b.Tag) })
	return list
}

func (t *top) view() server.ClusterView {
	v := server.ClusterView{At: t.at.UTC(), Nodes: []server.NodeView{}, Gone: t.lost}
	if t.uncertain != nil {
		v.Uncertain = t.uncertain.Error()
	}
	for _, n := range t.sorted() {
		v.Nodes = append(v.Nodes, n.NodeView)
	}
	return v
}

// String is the screen.
func (t *top) String() string {
	var b strings.Builder
	clients, live := 0, 0
	for _, n := range t.nodes {
		if n.gone.IsZero() {
			live++
			clients += n.Connections
		}
	}
	fmt.Fprintf(&b, "%s  nodes: %d  connections: %d\n", t.at.Format(time.TimeOnly), live, clients)
	if t.uncertain != nil {
		fmt.Fprintf(&b, "the list may be wrong: %v\n", t.uncertain)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tCONNECTIONS\tEMITTED/S\tSENT/S\tRECEIVED/S\tWAITING\tGAPS\tSLOW\tUNWANTED\tUP\tSTATE")
	slow := ""
	for _, n := range t.sorted() {
		s := n.Status
		if s == nil || !n.gone.IsZero() {
			fmt.Fprintf(w, "%s\t%d\t-\t-\t-\t-\t-\t-\t-\t-\t%s\n", n.Name, n.Connections, n.state())
			continue
		}
		waiting := bytesText(s.Queued)
		if s.Behind > 0 {
			waiting += fmt.Sprintf(" for %d", s.Behind)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%v\t%s\n", n.Name, s.Connections,
			n.rate(func(s *server.NodeStatus) uint64 { return s.Emitted }),
			n.rate(func(s *server.NodeStatus) uint64 { return s.Delivered }),
			n.rate(func(s *server.NodeStatus) uint64 { return s.Events }),
			waiting, s.Gaps, s.Slow, s.Unwanted, time.Duration(s.Uptime)*time.Second, n.state())
		for _, c := range s.Slowest {
			slow += fmt.Sprintf("%s\t%s\t%s\n", c.Connection, n.Name, bytesText(int64(c.Bytes)))
		}
	}
	for _, g := range t.lost {
		if t.nodes[g.Tag] == nil {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\t-\t-\t-\t-\tgone since %s: other nodes do not hear it\n", g.Name, g.At.Local().Format(time.TimeOnly))
		}
	}
	w.Flush()
	if slow != "" {
		b.WriteString("\nClients that read too slowly:\n")
		fmt.Fprint(w, "CONNECTION\tNODE\tWAITING\n"+slow)
		w.Flush()
	}
	return b.String()
}

func (n *topNode) state() string {
	switch {
	case !n.gone.IsZero():
		return "gone since " + n.gone.Format(time.TimeOnly)
	case n.Status == nil:
		return "silent: " + n.Silent
	case n.Draining:
		return "draining"
	case n.Status.Reason != "":
		return "not ready: " + n.Status.Reason
	}
	return strings.Join(append([]string{"ready"}, n.Status.Warnings...), "; ")
}

// rate is how many a second, "-" where that is not known.
func (n *topNode) rate(of func(*server.NodeStatus) uint64) string {
	took := n.at.Sub(n.beforeAt).Seconds()
	if n.before == nil || took <= 0 || of(n.Status) < of(n.before) {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(of(n.Status)-of(n.before))/took)
}

func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
