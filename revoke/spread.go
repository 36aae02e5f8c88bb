package revoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tether/cluster"
	"tether/hub"
)

// The topics of questions.
const (
	topicRevoke byte = 64 + iota // see order and taken
	topicRules                   // see question and knowledge
)

const (
	againPause  = 100 * time.Millisecond // before all are asked again
	membersTime = 3 * time.Second        // twice what it takes until the list of members is complete
)

// order is a rule on its way, with the nodes that the asker knows.
type order struct {
	Rule rule     `json:"rule"`
	Tags []string `json:"tags"`
}

// taken is the answer to it.
type taken struct {
	Sockets int         `json:"sockets"` // that have ended
	Others  []otherNode `json:"others"`  // that the asker does not know
}

type otherNode struct {
	Tag  string `json:"tag"`
	Name string `json:"name"`
}

// Revoke puts a rule into force on all nodes: see the package's description of what holds when it returns. It ends
// as [hub.Answers] does, after 30 s if ctx has no deadline. The error is ErrRule or ErrBefore, or that of [hub.Answers.Err]: then
// the rule is in force on this node alone.
func (l *List) Revoke(ctx context.Context, r Rule) (hub.Changed, error) {
	w, err := r.wire(time.Now())
	if err != nil {
		return hub.Changed{}, err
	}
	s := newSpread(w)
	ended, err := l.take(w) // before others are asked: see spread.ask
	s.note(cluster.Member{Tag: l.node.Tag(), Name: l.hub.Node()}, ended, err)
	err = s.ask(ctx, l.node)
	return s.changed(), err
}

// Everywhere is [List.Revoke] in a process without a hub, whose emitter's Run runs.
func Everywhere(ctx context.Context, e *hub.Emitter, r Rule) (hub.Changed, error) {
	w, err := r.wire(time.Now())
	if err != nil {
		return hub.Changed{}, err
	}
	s := newSpread(w)
	err = s.ask(ctx, e.Cluster())
	return s.changed(), err
}

// spread is a rule on its way to all nodes.
type spread struct {
	rule    rule
	sockets int
	nodes   map[string]cluster.Member  // by tag; in which it is in force
	missing map[string]cluster.Missing // by tag
	unnamed []cluster.Missing          // nodes of which not even the tag is known
}

func newSpread(r rule) *spread {
	return &spread{rule: r, nodes: make(map[string]cluster.Member), missing: make(map[string]cluster.Missing)}
}

func (s *spread) note(m cluster.Member, ended int, err error) {
	s.sockets += ended
	if err != nil {
		s.missing[m.Tag] = cluster.Missing{Node: m, Why: err}
		return
	}
	s.nodes[m.Tag] = m
	delete(s.missing, m.Tag)
}

// ask asks until no node knows of another one that has not been asked: one that has only just begun is not
// yet known to all. Either a node is asked, or it asks for the rules when those that are asked have this one.
func (s *spread) ask(ctx context.Context, n *cluster.Node) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cluster.DefaultPatience)
		defer cancel()
	}
	for {
		others, err := s.round(ctx, n)
		if err != nil || len(others) == 0 {
			return askError(err)
		}
		select {
		case <-time.After(againPause):
		case <-ctx.Done():
			for _, o := range others {
				s.missing[o.Tag] = cluster.Missing{Node: o, Why: cluster.ErrLate}
			}
			return nil
		}
	}
}

func askError(err error) error {
	switch {
	case errors.Is(err, cluster.ErrNotRunning):
		return fmt.Errorf("revoke: %w", hub.ErrNotRunning)
	case err != nil:
		return fmt.Errorf("revoke: %w", err)
	}
	return nil
}

// round asks all nodes, and returns those that were not asked.
func (s *spread) round(ctx context.Context, n *cluster.Node) (others map[string]cluster.Member, err error) {
	awaiting, cancel := context.WithTimeout(ctx, membersTime)
	members, _ := n.AwaitMembers(awaiting) // if the list is old or not complete, the question waits
	cancel()
	others = make(map[string]cluster.Member)
	o := order{Rule: s.rule}
	for _, m := range members {
		o.Tags = append(o.Tags, m.Tag)
		others[m.Tag] = m
	}
	body, _ := json.Marshal(o) // texts and numbers
	s.unnamed = nil
	asking := n.Ask(ctx, cluster.Question{Topic: topicRevoke, Body: body, Others: true, Once: true})
	for tag, page := range asking.Pages {
		var t taken
		err := json.Unmarshal(page, &t)
		s.note(asking.Member(tag), t.Sockets, err)
		for _, o := range t.Others {
			others[o.Tag] = cluster.Member{Tag: o.Tag, Name: o.Name}
		}
	}
	for _, m := range asking.Missing() {
		if _, ok := s.nodes[m.Node.Tag]; ok {
			continue
		} else if m.Node.Tag == "" {
			s.unnamed = append(s.unnamed, m)
			continue
		}
		s.missing[m.Node.Tag] = m
	}
	maps.DeleteFunc(others, func(tag string, _ cluster.Member) bool {
		_, in := s.nodes[tag]
		_, out := s.missing[tag]
		return in || out
	})
	return others, asking.Err()
}

func (s *spread) changed() hub.Changed {
	byName := func(a, b cluster.Member) int { return strings.Compare(a.Name, b.Name) }
	c := hub.Changed{Sockets: s.sockets, Nodes: slices.SortedFunc(maps.Values(s.nodes), byName)}
	c.Missing = slices.SortedFunc(maps.Values(s.missing), func(a, b cluster.Missing) int { return byName(a.Node, b.Node) })
	c.Missing = append(c.Missing, s.unnamed...)
	return c
}

// answerRevoke takes a rule.
func (l *List) answerRevoke(ctx context.Context, q *cluster.Request) error {
	var o order
	if err := json.Unmarshal(q.Body, &o); err != nil {
		return err
	}
	if !o.Rule.valid() {
		return ErrRule
	}
	ended, err := l.take(o.Rule)
	if err != nil {
		return err
	}
	answer := taken{Sockets: ended}
	members, _ := l.node.Members() // after take: see spread.ask
	for _, m := range members {
		if !slices.Contains(o.Tags, m.Tag) {
			answer.Others = append(answer.Others, otherNode{m.Tag, m.Name})
		}
	}
	page, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return q.Send(ctx, page)
}
