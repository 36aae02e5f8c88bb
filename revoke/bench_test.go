package revoke

import (
	"fmt"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/hub"
)

// BenchmarkTake is a rule that is about none of 100,000 sockets, all of which are looked at.
func BenchmarkTake(b *testing.B) {
	h, err := hub.New(memory.NewBus().Broker(), hub.Options{})
	if err != nil {
		b.Fatal(err)
	}
	l, err := New(h, Options{Max: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100_000 {
		l.sockets[new(hub.Socket)] = held{user: fmt.Sprint("user:", i), id: fmt.Sprint("token-", i)}
	}
	made := time.Now().UnixNano()
	for b.Loop() {
		made++
		if _, err := l.take(rule{Token: "another", Made: made}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAdmit is the look at 100,000 rules that a connect costs.
func BenchmarkAdmit(b *testing.B) {
	m := rules{lifetime: 1 << 62, limit: 1 << 30, all: make(map[ruleKey]rule)}
	for i := range 100_000 {
		m.all[ruleKey{user: fmt.Sprint("user:", i)}] = rule{User: fmt.Sprint("user:", i)}
	}
	h := held{user: "user:x", id: "token"}
	for b.Loop() {
		if m.match(&h) {
			b.Fatal("it is revoked")
		}
	}
}
