package revoke

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"time"

	"tether/hub"
)

// Token is what a socket was let in with, as far as it is known.
type Token struct {
	User   hub.Target // whose it is; the zero value: nobody's
	ID     string     // the token's own: jti of a JWT, say. "": it has none
	Issued time.Time  // the zero value: it is not known, and counts as before every other time
}

// Rule says which tokens are no longer good: those that fit all fields that are set. One is needed.
type Rule struct {
	User   hub.Target // those of this user
	Token  string     // the one with this ID
	Before time.Time  // those that were issued before, at most a minute from now; many tokens say that in whole seconds
}

var (
	// ErrRevoked is what Register returns for a token that is no longer good. The client sees it as
	// CONNECT_ERROR with the message "revoked".
	ErrRevoked = hub.Refuse("revoked", nil)

	// ErrRule says that a rule has no field that is set.
	ErrRule = errors.New("revoke: an empty rule would be about everybody: a user, a token or a time is needed")

	// ErrBefore says that Before is more than a minute from now, when it would be about tokens that do not exist yet, or
	// before 1970, when there were none.
	ErrBefore = errors.New("revoke: Before is more than a minute from now, or before 1970")

	// ErrFull says that a node remembers as many rules as Options.Max allows.
	ErrFull = errors.New("revoke: the list is full: the sockets have ended, but may come back; see Options.Max")
)

// rule is a Rule as nodes pass it on.
type rule struct {
	User   string `json:"user,omitempty"` // with its kind
	Token  string `json:"token,omitempty"`
	Before int64  `json:"before,omitempty"` // in nanoseconds since 1970; 0: whenever
	Made   int64  `json:"made"`             // likewise
}

// clocksDiffer is by how much the clocks of machines may.
const clocksDiffer = time.Minute

func (r Rule) wire(now time.Time) (rule, error) {
	if r == (Rule{}) {
		return rule{}, ErrRule
	}
	w := rule{Token: r.Token, Made: now.UnixNano()}
	if r.User != (hub.Target{}) {
		w.User = r.User.String()
	}
	if !r.Before.IsZero() {
		if r.Before.Unix() < 0 || r.Before.After(now.Add(clocksDiffer)) {
			return rule{}, ErrBefore
		}
		w.Before = r.Before.UnixNano()
	}
	return w, nil
}

// valid reports whether another node can have made r.
func (r rule) valid() bool { return r.User != "" || r.Token != "" || r.Before != 0 }

// about reports whether r is about a token, or another one of the same socket.
func (r rule) about(t *held) bool {
	for ; t != nil; t = t.also {
		if (r.User == "" || r.User == t.user) && (r.Token == "" || r.Token == t.id) && (r.Before == 0 || t.issued < r.Before) {
			return true
		}
	}
	return false
}

// until is when r can be forgotten: what it is about has expired by then.
func (r rule) until(lifetime time.Duration) time.Time {
	return time.Unix(0, max(r.Made, r.Before)).Add(lifetime)
}

// hash tells rules apart. The hashes of all rules of a node, combined, tell whether two nodes have the same.
func (r rule) hash() uint64 {
	h := fnv.New64a()
	b := binary.AppendUvarint(nil, uint64(len(r.User)))
	b = append(append(b, r.User...), r.Token...)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Before))
	h.Write(binary.LittleEndian.AppendUint64(b, uint64(r.Made)))
	return h.Sum64()
}

// rules are what one node remembers. It is a value that its owner locks. There is one for each user and
// token, as a later time includes an earlier one.
type rules struct {
	lifetime time.Duration
	limit    int
	all      map[ruleKey]rule
	digest   uint64    // of all
	tidied   time.Time // up to when what was over has been forgotten
}

type ruleKey struct{ user, token string }

// tidyInterval is how often a node looks for rules that it can forget.
const tidyInterval = time.Minute

// add remembers a rule. It reports whether it says something new.
func (m *rules) add(r rule, now time.Time) (fresh bool, err error) {
	m.tidy(now)
	if !r.until(m.lifetime).After(m.tidied) {
		return false, nil
	}
	key := ruleKey{r.User, r.Token}
	old, known := m.all[key]
	if known {
		if r.Before != 0 && (old.Before == 0 || old.Before > r.Before) {
			r.Before = old.Before
		}
		if r.Made = max(r.Made, old.Made); r == old {
			return false, nil
		}
		m.digest ^= old.hash()
	} else if m.full() {
		return true, ErrFull
	}
	m.digest ^= r.hash()
	m.all[key] = r
	return true, nil
}

func (m *rules) full() bool { return len(m.all) >= m.limit }

// tidy forgets what is over, if it is time for it: by the clock, so that all nodes do it at the same time, and what they
// remember stays the same.
func (m *rules) tidy(now time.Time) {
	now = now.Truncate(tidyInterval)
	if !now.After(m.tidied) {
		return
	}
	m.tidied = now
	for key, r := range m.all {
		if !r.until(m.lifetime).After(now) {
			m.digest ^= r.hash()
			delete(m.all, key)
		}
	}
}

// match reports whether one of the rules is about a token.
func (m *rules) match(t *held) bool {
	for _, key := range [...]ruleKey{{t.user, t.id}, {t.user, ""}, {"", t.id}, {"", ""}} {
		if r, ok := m.all[key]; ok && r.about(t) {
			return true
		}
	}
	return false
}
