package hubtest_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"tether/hubtest"
	"tether/internal/long"
)

// simple is a test as an application has many: one node, two clients, a handler, what comes and what does not.
func simple(t *testing.T) {
	node := hubtest.Start(t, newHub)
	ann, ben := node.Connect(auth{User: "ann"}), node.Connect(auth{User: "ben"})
	ann.Call("say", line{Text: "hello"}).Expect(receipt{Length: 5})
	ben.Expect("said", line{From: "ann", Text: "hello"})
	ann.RefuteAny()
}

func TestAThousandTestsTakeASecondAndLeaveNothing(t *testing.T) {
	n := long.Or(100, 1000)
	before := runtime.NumGoroutine()
	began := time.Now()
	for range n {
		synctest.Test(t, simple)
	}
	took := time.Since(began)
	t.Logf("%d tests took %v, %v each", n, took, took/time.Duration(n))
	for deadline := time.Now().Add(hubtest.Patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, before the tests there were %d", runtime.NumGoroutine(), before)
		}
	}
}
