package brokertest

import (
	"context"
	"strings"
	"testing"

	"tether/broker"
)

var subjects = []test{
	{"subjects are any text, and equal only to themselves", testHostileSubjects},
}

// hostile are subjects that some backend, or some escaping, treats specially. No two are equal.
func hostile() []string {
	h := []string{
		"*", ">", "**", ".*", "a.*", "a.>", "*.b", "a.b", "a.b.", ".a.b", "a..b", "..", ".", "a", "b", "A", "a.B",
		" ", "  ", "a b", " a", "a ", "\t", "\n", "\r\n", "a\r\nb", "a\r\nPING\r\n", "\x00", "a\x00", "a\x00b", "\x7f", "\x1b[0m",
		"?", "a?", "[ab]", "[a", "\\*", "\\", "\\\\", "a*", "{a}", "$1", "$SYS.>", "$SYS", "_INBOX.x", "_INBOX.*", "__keyspace@0__:a",
		"%", "%2A", "%2a", "%25", "%00", "=2A", "=", "==", "_", "__", "-", "~", "+", "/", "//", "a/b", ":", "::", "a:b", ",", ";", "'", "\"", "`", "|", "&", "#", "!", "^", "<",
		"ä", "a\u0308", "日本語", "🦀", "\u202e", "\ufeff", "\ufeffa", "\u200b", "é", "É", "ß", "SS", "ı", "İ",
		"user:42", "user:4", "user:422", "user:*", "nodes", "true", "null", "0", "00", "-1",
		"+OK\r\n", "$-1\r\n", "*1\r\n$4\r\nQUIT\r\n", "PUB a 1\r\nx\r\n", "MSG a 1 1",
	}
	long := strings.Repeat("x", 5000)
	return append(h, long, long+"y", long[:4999], strings.Repeat("*.>", 1500), strings.Repeat("é", 2500),
		strings.Repeat(" ", 5000), strings.Repeat("a.", 2500), strings.Repeat("\x00", 200))
}

func testHostileSubjects(t *testing.T, h Harness) {
	names := hostile()
	seen := make(map[string]bool)
	for _, s := range names {
		if seen[s] {
			t.Fatalf("the suite has %q twice", s)
		}
		seen[s] = true
	}

	// A third is subscribed by one node, a third by another, a third by none.
	nodes := []*node{start(t, h), start(t, h)}
	owner := func(i int) *node {
		if i%3 == 2 {
			return nil
		}
		return nodes[i%3]
	}
	for i, s := range names {
		if n := owner(i); n != nil {
			n.subscribe(s)
		}
	}
	nodes[0].subscribe("the end")
	nodes[1].subscribe("the end")
	p := publisher(t, h)
	var msgs []broker.Message
	for i, s := range names {
		msgs = append(msgs, broker.Message{Subject: s, Data: []byte(s)})
		if reach := publish(t, p, s, s); reach.Nobody() != (owner(i) == nil) {
			t.Errorf("%.60q: the receipt is %+v; is it subscribed: %v", s, reach, owner(i) != nil)
		}
	}
	if _, err := p.Publish(context.Background(), msgs...); err != nil {
		t.Fatal(err)
	}
	publish(t, p, "the end", "")
	for _, n := range nodes {
		n.awaitHostile(names, func(i int) bool { return owner(i) == n })
	}

	for i, s := range names {
		if n := owner(i); n != nil {
			n.unsubscribe(s)
			if reach := publish(t, p, s, s); !reach.Nobody() {
				t.Errorf("%.60q, unsubscribed: the receipt is %+v", s, reach)
			}
		}
	}
}

// awaitHostile waits until two messages have come on each subject that the node has, and the end, and checks that
// nothing else has.
func (n *node) awaitHostile(names []string, has func(i int) bool) {
	n.tb.Helper()
	for i, s := range names {
		if has(i) {
			n.await("two messages on a hostile subject", func() bool { return len(n.got[s]) == 2 })
		}
	}
	n.awaitData("the end", "")
	n.mu.Lock()
	defer n.mu.Unlock()
	for s, got := range n.got {
		for _, data := range got {
			if s != "the end" && data != s {
				n.tb.Errorf("%.60q arrived on %.60q", data, s)
			}
		}
	}
	for i, s := range names {
		if !has(i) && len(n.got[s]) > 0 {
			n.tb.Errorf("%.60q arrived where it is not subscribed", s)
		}
	}
}
