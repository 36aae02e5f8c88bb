package transport

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestIdleWorkersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := &workers{keep: 3}
		a, b, c := ws.get(), ws.get(), ws.get()
		ws.put(a)
		ws.put(b)
		ws.put(c)
		for range 4 { // c is needed all the time
			time.Sleep(retireAfter / 2)
			w := ws.get()
			if w != c {
				t.Fatal("not the worker that worked last")
			}
			ws.put(w)
		}
		time.Sleep(2 * retireAfter)
		synctest.Wait()
		if n := len(ws.idle); n != 0 || ws.retires != nil {
			t.Errorf("%d workers are left, timer %v", n, ws.retires)
		}
		ws.done.Wait() // blocks for ever, which synctest reports, if a goroutine is left

		ws.put(ws.get())
		ws.stop()
		ws.done.Wait()
	})
}

func TestBusyWorkersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := &workers{keep: 2}
		a, b := ws.get(), ws.get()
		ws.put(b)
		time.Sleep(3 * retireAfter)
		ws.mu.Lock()
		if len(ws.idle) != 0 {
			t.Error("an idle worker is left")
		}
		ws.mu.Unlock()
		ws.put(a)
		if ws.get() != a {
			t.Error("the worker that was busy has ended")
		}
		ws.put(a)
		ws.stop()
	})
}
