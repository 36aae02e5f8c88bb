package ledger

import (
	"slices"
	"testing"
	"time"
)

func TestAttendance(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	for _, row := range []struct {
		name   string
		tell   func(a *Attendance)
		faults []string
	}{
		{"who comes and goes", func(a *Attendance) {
			a.Tell("u", true, "1", at(1))
			a.Tell("u", false, "2", at(2))
		}, nil},
		{"what is told again with the same ID", func(a *Attendance) {
			a.Tell("u", true, "1", at(1))
			a.Tell("u", true, "1", at(5))
			a.Tell("u", false, "2", at(2))
		}, nil},
		{"what comes late from another process", func(a *Attendance) {
			a.Tell("u", false, "2", at(2))
			a.Tell("u", true, "1", at(1))
		}, nil},
		{"a first device that is told twice", func(a *Attendance) {
			a.Tell("u", true, "1", at(1))
			a.Tell("u", true, "2", at(2))
			a.Tell("u", false, "3", at(3))
		}, []string{"u is told twice to be there: true, 2"}},
		{"a last device that nobody has told of", func(a *Attendance) { a.Tell("u", true, "1", at(1)) }, []string{"u is there in the end"}},
		{"a first device that nobody has told of", func(a *Attendance) { a.Tell("u", false, "1", at(1)) },
			[]string{"u is told twice to be there: false, 1"}},
	} {
		a := NewAttendance()
		row.tell(a)
		if _, got := a.Settle(); !slices.Equal(got, row.faults) {
			t.Errorf("%s: %q, want %q", row.name, got, row.faults)
		}
	}
}
