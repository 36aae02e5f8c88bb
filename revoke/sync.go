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
)

const (
	lookInterval = 250 * time.Millisecond // between two looks whether rules may have been missed
	onItsWay     = time.Second            // for which a rule may be, from one node that has it to another
	maxPast      = 256                    // digests that are remembered
	pageBytes    = 32 << 10               // about how large a page of rules gets
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
	var seen view
	for behind := true; ; {
		behind = seen.behind(l) || behind
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

// view is what a node has seen of the rules of others, by tag.
type view struct {
	since map[string]time.Time // when a member was first seen to have others than this node
	asked map[string]uint64    // the digest of such a member, since it was asked
}

// behind reports whether a member has had rules for a while that this node has not: then it was not heard when they were
// made, or they were not here. A digest that this node once had is that of one that is behind, which asks by itself.
func (v *view) behind(l *List) (behind bool) {
	members, _ := l.node.Members()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules.tidy(time.Now())
	l.digestLocked()
	since, asked := make(map[string]time.Time), make(map[string]uint64)
	for _, m := range members {
		if was, ok := v.asked[m.Tag]; ok && was == m.Digest {
			asked[m.Tag] = was
			continue
		}
		if m.Digest == 0 || slices.Contains(l.past, m.Digest) {
			continue
		}
		if since[m.Tag] = v.since[m.Tag]; since[m.Tag].IsZero() {
			since[m.Tag] = time.Now()
		}
		if time.Since(since[m.Tag]) >= onItsWay {
			asked[m.Tag], behind = m.Digest, true
		}
	}
	v.since, v.asked = since, asked
	return behind
}

// digestLocked has the other members see what this node remembers.
func (l *List) digestLocked() {
	d := l.rules.digest
	if len(l.past) > 0 && l.past[len(l.past)-1] == d || len(l.past) == 0 && d == 0 {
		return
	}
	if l.past = append(l.past, d); len(l.past) > maxPast {
		l.past = slices.Delete(l.past, 0, 1)
	}
	l.node.SetDigest(d)
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
// false if somebody has still to answer, or cannot be read.
func (l *List) ask(ctx context.Context, q cluster.Question, rules bool) (digests map[uint64]string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, cluster.DefaultPatience)
	defer cancel()
	q.Body, _ = json.Marshal(question{l.node.Tag(), rules}) // a text
	digests, ok = make(map[uint64]string), true
	asking := l.node.Ask(ctx, q)
	var all []rule
	for tag, page := range asking.Pages {
		var k knowledge
		err := json.Unmarshal(page, &k)
		l.noteUnreadable(tag, asking.Member(tag).Name, err)
		if err != nil {
			ok = false
			continue
		}
		ok = ok && k.Knows
		digests[k.Digest] = tag
		all = append(all, slices.DeleteFunc(k.Rules, func(r rule) bool { return !r.valid() })...)
	}
	_, _ = l.take(all...) // it is logged; all at once, so that there is one digest
	members, _ := l.node.Members()
	for tag, name := range l.unreadable {
		if !slices.ContainsFunc(members, func(m cluster.Member) bool { return m.Tag == tag }) {
			l.noteUnreadable(tag, name, nil)
		}
	}
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

// noteUnreadable logs that the rules of a node cannot be read when that begins, and when it ends: it is asked four times a
// second meanwhile.
func (l *List) noteUnreadable(tag, name string, err error) {
	switch _, was := l.unreadable[tag]; {
	case err != nil && !was:
		l.unreadable[tag] = name
		l.log.Warn("the rules of another node cannot be read; it is asked again until they can", "of", name, "error", err)
	case err == nil && was:
		delete(l.unreadable, tag)
		l.log.Info("the rules of another node can be read again, or it has gone", "of", name)
	}
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
	var left []rule
	l.mu.Lock() // after the look at the members: see spread.ask
	k.Digest = l.rules.digest
	if q.Rules {
		left = slices.Collect(maps.Values(l.rules.all))
	}
	l.mu.Unlock()
	for {
		k.Rules, left = cutPage(left)
		page, err := json.Marshal(k)
		if err != nil {
			return err
		}
		if err := r.Send(ctx, page); err != nil || len(left) == 0 {
			return err
		}
	}
}

// cutPage takes the rules of a page from the front of a list: all of them may be more than an answer holds in one.
func cutPage(list []rule) (page, rest []rule) {
	n := 0
	for size := 0; n < len(list) && size < pageBytes; n++ {
		size += 100 + len(list[n].User) + len(list[n].Token)
	}
	return list[:n], list[n:]
}
