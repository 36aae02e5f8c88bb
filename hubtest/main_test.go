package hubtest_test

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"testing"
	"time"
)

// What the hubs log is not looked at. When all tests have ended, so have all goroutines.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	code := m.Run()
	for deadline := time.Now().Add(10 * time.Second); code == 0 && runtime.NumGoroutine() > 1; {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Printf("goroutines are left:\n%s\n", stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
		runtime.Gosched()
	}
	os.Exit(code)
}
