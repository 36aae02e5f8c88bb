package follow

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tether/engine"
)

// maxTargets is how many targets of an emit are named.
const maxTargets = 20

// Report is what became of events.
type Report struct {
	Events  []Event   `json:"events"` // in the order of their emits
	Missing []Missing `json:"missing"`
}

// Missing is a node that has not answered.
type Missing struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// Event is what became of one event.
type Event struct {
	ID          ID        `json:"id"`
	Name        string    `json:"name"`
	Namespace   string    `json:"namespace"`
	By          string    `json:"by,omitempty"`   // the process that has emitted it, or received it; "": it was not asked, or is gone
	At          time.Time `json:"at,omitzero"`    // of that, by the clock of By
	From        string    `json:"from,omitempty"` // ID of the socket that has sent it; "": it was emitted
	To          []string  `json:"to,omitempty"`
	MoreTargets int       `json:"moreTargets,omitempty"`
	Receipts    []string  `json:"receipts,omitempty"` // one for each target
	Nodes       int       `json:"nodes"`              // that have taken it, at least, by the receipts
	Nobody      bool      `json:"nobody"`             // it is certain that none has
	Error       string    `json:"error,omitempty"`    // of the emit
	Arrivals    []Arrival `json:"arrivals"`
}

// Arrival is a message of the event that has come to a node. Its times are by the clock of that node.
type Arrival struct {
	Node    string    `json:"node"`
	Taken   time.Time `json:"taken"`
	Routed  bool      `json:"routed"`  // Sockets is known
	Sockets int       `json:"sockets"` // that it is for; 0: nobody was there any more
	Clients []Client  `json:"clients,omitempty"`
	Beyond  Beyond    `json:"beyond"`
}

// Client is what became of it for one client.
type Client struct {
	Connection   string    `json:"connection"`
	Transport    string    `json:"transport"`
	Queued       time.Time `json:"queued,omitzero"`
	Written      time.Time `json:"written,omitzero"`
	Acknowledged time.Time `json:"acknowledged,omitzero"`
	Dropped      time.Time `json:"dropped,omitzero"`
	Outcome      string    `json:"outcome"` // in words
	Waiting      bool      `json:"waiting"` // more may come
}

func (c *Client) become(o engine.Outcome, at time.Time) {
	c.Outcome, c.Waiting = o.String(), o.Waiting()
	switch {
	case o.Dropped():
		c.Dropped = at
	case o == engine.Written:
		c.Written = at
	case o == engine.Acknowledged:
		c.Acknowledged = at
	case c.Queued.IsZero():
		c.Queued = at
	}
}

// Beyond counts the clients of which no more is remembered.
type Beyond struct {
	Written      int `json:"written"`
	Acknowledged int `json:"acknowledged"`
	Dropped      int `json:"dropped"`
}

func (b *Beyond) count(o engine.Outcome) {
	switch {
	case o.Dropped():
		b.Dropped++
	case o == engine.Written:
		b.Written++
	case o == engine.Acknowledged:
		b.Acknowledged++
	}
}

// Settled reports whether nothing more is to come from the nodes that have answered: every client has the
// event, or does not get it. Acked says that clients are to acknowledge it.
func (e *Event) Settled(acked bool) bool {
	if e.From != "" {
		return true
	}
	if len(e.Arrivals) == 0 {
		return e.Nobody || e.Error != ""
	}
	if len(e.Arrivals) < min(e.Nodes, maxArrivals) {
		return false
	}
	return !slices.ContainsFunc(e.Arrivals, func(a Arrival) bool { return !a.settled(acked) })
}

func (a *Arrival) settled(acked bool) bool {
	done := a.Beyond.Written + a.Beyond.Dropped
	for i := range a.Clients {
		c := &a.Clients[i]
		if !c.Waiting && (!acked || c.Acknowledged != (time.Time{}) || c.Outcome != engine.Written.String()) {
			done++
		}
	}
	return a.Routed && done >= a.Sockets
}

// String is the report as tables, one for each event.
func (r *Report) String() string {
	var b strings.Builder
	for i := range r.Events {
		if i > 0 {
			b.WriteByte('\n')
		}
		r.Events[i].write(&b)
	}
	return b.String()
}

func (e *Event) write(b *strings.Builder) {
	if e.From != "" {
		fmt.Fprintf(b, "%s of socket:%s, received %s by %s\n", e.Name, e.From, e.At.Format("15:04:05.000"), e.By)
		return
	}
	fmt.Fprintf(b, "%s", e.Name)
	if e.By == "" {
		b.WriteString(": nobody who was asked has emitted it\n")
	} else {
		to := strings.Join(e.To, ", ")
		if e.MoreTargets > 0 {
			to += fmt.Sprintf(" and %d more", e.MoreTargets)
		}
		fmt.Fprintf(b, " to %s, emitted %s by %s: %s\n", to, e.At.Format("15:04:05.000"), e.By, e.said())
	}
	if len(e.Arrivals) == 0 {
		return
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tCONNECTION\tTAKEN\tQUEUED\tWRITTEN\tACKNOWLEDGED\tOUTCOME")
	for i := range e.Arrivals {
		e.Arrivals[i].write(w, e.At)
	}
	w.Flush()
}

// said is what the broker has said.
func (e *Event) said() string {
	if e.Error != "" {
		return e.Error
	}
	if len(e.Receipts) == 0 {
		return "the question is put"
	}
	return strings.Join(slices.Compact(slices.Clone(e.Receipts)), "; ")
}

func (a *Arrival) write(w *tabwriter.Writer, from time.Time) {
	if from.IsZero() {
		from = a.Taken
	}
	since := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return fmt.Sprintf("%+.1f ms", float64(t.Sub(from).Microseconds())/1000)
	}
	for _, c := range a.Clients {
		outcome := c.Outcome
		if !c.Dropped.IsZero() {
			outcome = "dropped " + since(c.Dropped) + ": " + outcome
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Node, c.Connection, since(a.Taken), since(c.Queued),
			since(c.Written), since(c.Acknowledged), outcome)
	}
	switch more := a.Sockets - len(a.Clients); {
	case a.Routed && a.Sockets == 0:
		fmt.Fprintf(w, "%s\t-\t%s\t-\t-\t-\tnobody was there any more\n", a.Node, since(a.Taken))
	case more > 0:
		fmt.Fprintf(w, "%s\t%d more\t%s\t\t\t\t%d written, %d acknowledged, %d dropped\n", a.Node, more, since(a.Taken),
			a.Beyond.Written, a.Beyond.Acknowledged, a.Beyond.Dropped)
	}
}
