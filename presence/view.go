package presence

import (
	"cmp"
	"slices"

	"tether/cluster"
)

// view is the list of members as far as it matters here. Two nodes with the same list have views with the same
// hash, and agree on all owners.
type view struct {
	hash   uint64
	nodes  map[string]cluster.Member // all that take part, by tag
	owners []candidate               // of them those that can own users
	ending bool                      // all owners drain
}

type candidate struct {
	tag  string
	hash uint64
}

// newView picks those that take part. Nodes that drain own no users, unless there are no others.
func newView(list []cluster.Member) *view {
	v := &view{nodes: make(map[string]cluster.Member)}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b cluster.Member) int { return cmp.Compare(a.Tag, b.Tag) })
	var draining []candidate
	v.hash = hashText(hashSeed, "view")
	for _, m := range list {
		if !m.Answers(topicPart) {
			continue
		}
		v.nodes[m.Tag] = m
		v.hash = hashText(v.hash, m.Tag)
		c := candidate{m.Tag, mix(hashText(hashSeed, m.Tag))}
		switch {
		case !m.Answers(topicOwner): // it has no hooks, or is about to end
			v.hash = hashText(v.hash, "-")
		case m.Draining:
			v.hash = hashText(v.hash, "~")
			draining = append(draining, c)
		default:
			v.hash = hashText(v.hash, "+")
			v.owners = append(v.owners, c)
		}
	}
	if len(v.owners) == 0 {
		v.owners, v.ending = draining, true
	}
	v.hash = max(mix(v.hash), 1)
	return v
}

// place says which node owns the user with a key of this hash, and which one is its deputy: the one that owns
// it when the owner has gone. "" is nobody.
func (v *view) place(key uint64) (owner, deputy string) {
	var first, second uint64
	for _, c := range v.owners {
		switch score := mix(c.hash ^ key); {
		case owner == "" || score > first:
			owner, deputy, first, second = c.tag, owner, score, first
		case deputy == "" || score > second:
			deputy, second = c.tag, score
		}
	}
	return owner, deputy
}

func (v *view) owner(key uint64) string {
	owner, _ := v.place(key)
	return owner
}

// loses reports whether a node that takes part in v does not in next.
func (v *view) loses(next *view) bool {
	for tag := range v.nodes {
		if _, ok := next.nodes[tag]; !ok {
			return true
		}
	}
	return false
}

// owns reports whether a node can own users.
func (v *view) owns(tag string) bool {
	return slices.ContainsFunc(v.owners, func(c candidate) bool { return c.tag == tag })
}

const hashSeed = 14695981039346656037

// hashText is FNV-1a, which is the same on every node.
func hashText(h uint64, text string) uint64 {
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return (h ^ 0xff) * 1099511628211 // the end of the text
}

func hashKey(key string) uint64 { return mix(hashText(hashSeed, key)) }

// mix has every bit of x matter for all bits of the result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
