package revoke

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"tether/cluster"
	"tether/hub"
)

const (
	lookInterval = 250 * time.Millisecond // between two looks whether rules may have been missed
	newTime      = 3 * time.Second        // after which a node that appears is not new, or all that are there have been heard
	maxTags      = 1 << 14                // of nodes, past which those that are gone are forgotten
)

// question asks what a node knows.
type question struct {
	Tag   string `json:"tag"`   // of the asker
	Rules bool   `json:"rules"` // it wants them all
}

// knowledge is the answer.
type knowledge struct {
	Knows  bool   `json:"knows"` // the asker: rules that come from now on go there, too
	Digest uint64 `json:"digest,string"`
	Rules  []rule `json:"rules,omitempty"`
}

// Run implements [cluster.Service]: the hub calls it. It keeps the list in line with those of other nodes.
func (l *List) Run(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	seen := newView()
	for behind := true; ; {
		behind = seen.behind(l.hub) || behind
		if behind && l.catchUp(ctx) {
			behind = false
			l.open()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Ready returns nil when this node knows the rules of the others: before that it lets nobody in, and a node that
// knows them must not be taken away. It belongs to what a load balancer asks, beside Ready of the hub.
func (l *List) Ready() error {
	select {
	case <-l.known:
		return nil
	default:
		return errUnknown
	}
}

// open lets everybody in that waits.
func (l *List) open() {
	select {
	case <-l.known:
	default:
		close(l.known)
	}
}

// view is what a node has seen of the cluster.
type view struct {
	gaps uint64
	deaf time.Time       // when this node was last known to have missed something
	tags map[string]bool // of the members; false: it is gone
}

func newView() *view { return &view{tags: make(map[string]bool)} }

// behind reports whether rules may have been missed since the last call: because messages were, or because a
// node has come back, or has begun while this one heard nothing. One that is new asks by itself.
func (v *view) behind(h *hub.Hub) (behind bool) {
	now := time.Now()
	if gaps := h.Stats().Gaps; gaps != v.gaps {
		v.gaps, v.deaf, behind = gaps, now, true
	}
	members, err := h.Members()
	if err != nil {
		v.deaf = now
		return behind // nobody is taken off the list meanwhile
	}
	there := make(map[string]bool)
	for _, m := range members {
		there[m.Tag] = true
		if is, known := v.tags[m.Tag]; !is && (known || now.Sub(m.Since) > newTime || now.Sub(v.deaf) < newTime) {
			behind = true
		}
		v.tags[m.Tag] = true
	}
	for tag := range v.tags {
		switch {
		case there[tag]:
		case len(v.tags) > maxTags:
			delete(v.tags, tag)
		default:
			v.tags[tag] = false
		}
	}
	return behind
}

// catchUp asks other nodes for their rules. It reports whether this node knows all of them now.
func (l *List) catchUp(ctx context.Context) bool {
	for seen := map[uint64]bool{}; ; {
		if _, err := l.node.AwaitMembers(ctx); err != nil {
			return false
		}
		digests, ok := l.ask(ctx, cluster.Question{Topic: topicRules, Others: true}, false)
		if !ok {
			return false
		}
		maps.DeleteFunc(digests, func(d uint64, _ string) bool { return seen[d] || d == l.digest() })
		if len(digests) == 0 {
			return true
		}
		for d, tag := range digests {
			seen[d] = true
			if said, ok := l.ask(ctx, cluster.Question{Topic: topicRules, To: tag}, true); !ok || len(said) == 0 {
				return false // where the broker counts nobody, nobody is missing
			}
		}
	}
}

// ask asks what others know, takes the rules, and returns the digests with the tag of one node each. It reports
// false if somebody has still to answer.
func (l *List) ask(ctx context.Context, q cluster.Question, rules bool) (digests map[uint64]string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, cluster.DefaultPatience)
	defer cancel()
	q.Body, _ = json.Marshal(question{l.node.Tag(), rules}) // a text
	digests, ok = make(map[uint64]string), true
	asking := l.node.Ask(ctx, q)
	for tag, page := range asking.Pages {
		var k knowledge
		if err := json.Unmarshal(page, &k); err != nil {
			l.log.Warn("the rules of another node cannot be read", "of", asking.Member(tag).Name, "error", err)
			continue
		}
		ok = ok && k.Knows
		digests[k.Digest] = tag
		k.Rules = slices.DeleteFunc(k.Rules, func(r rule) bool { return !r.valid() })
		_, _ = l.take(k.Rules...) // it is logged
	}
	members, _ := l.node.Members()
	for _, m := range asking.Missing() {
		switch {
		case errors.Is(m.Why, cluster.ErrGone): // one that is still on the list may come back without being noticed
			ok = ok && !slices.ContainsFunc(members, func(o cluster.Member) bool { return o.Tag == m.Node.Tag })
		case strings.IndexByte(m.Node.Topics, topicRules) >= 0, errors.Is(m.Why, cluster.ErrLate), errors.Is(m.Why, cluster.ErrLost):
			ok = false
		default: // it has no list
			l.log.Debug("another node does not say its rules", "of", m.Node.Name, "error", m.Why)
		}
	}
	return digests, ok && asking.Err() == nil
}

func (l *List) digest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules.digest
}

// answerRules says what this node knows.
func (l *List) answerRules(ctx context.Context, r *cluster.Request) error {
	var q question
	if err := json.Unmarshal(r.Body, &q); err != nil {
		return err
	}
	members, _ := l.node.Members()
	k := knowledge{Knows: slices.ContainsFunc(members, func(m cluster.Member) bool { return m.Tag == q.Tag })}
	l.mu.Lock() // after the look at the members: see spread.ask
	k.Digest = l.rules.digest
	if q.Rules {
		k.Rules = slices.Collect(maps.Values(l.rules.all))
	}
	l.mu.Unlock()
	page, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return r.Send(ctx, page)
}
