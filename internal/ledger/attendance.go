package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Attendance is the book of who is there, as it was told: of each name, that its first device has come, that its last
// one has gone, and so on by turns. Its methods may be called from any goroutine.
type Attendance struct {
	mu       sync.Mutex
	told     map[string][]telling // guarded by mu; by name
	known    map[string]struct{}  // guarded by mu; IDs
	repeated int                  // guarded by mu
}

// telling is one change, as it was told first.
type telling struct {
	here bool
	id   string
	at   time.Time
}

// NewAttendance returns an empty book.
func NewAttendance() *Attendance {
	return &Attendance{told: make(map[string][]telling), known: make(map[string]struct{})}
}

// Tell notes that a change was told, and when. One with an ID that is known is the same change again.
func (a *Attendance) Tell(name string, here bool, id string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, again := a.known[id]; !again {
		a.known[id] = struct{}{}
		a.told[name] = append(a.told[name], telling{here, id, at})
		return
	}
	a.repeated++
	list := a.told[name]
	if i := slices.IndexFunc(list, func(t telling) bool { return t.id == id }); i >= 0 && at.Before(list[i].at) {
		list[i].at = at
	}
}

// Seen is how often a name was told to have come, and to have left.
func (a *Attendance) Seen(name string) (came, left int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.told[name] {
		if t.here {
			came++
		} else {
			left++
		}
	}
	return came, left
}

// Tale is what was told of a name last, in words.
func (a *Attendance) Tale(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var words []string
	for _, t := range a.told[name][max(0, len(a.told[name])-6):] {
		words = append(words, fmt.Sprintf("%s here: %v, %s", t.at.Format("05.000"), t.here, t.id))
	}
	return strings.Join(words, "; ")
}

// Repeated is how often a change was told that had been told before, with the same ID.
func (a *Attendance) Repeated() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.repeated
}

// Settle is how many changes were told, and says which of them cannot be: of one name coming and leaving take turns,
// and in the end nobody is there. What several processes tell is put in the order of their clocks.
func (a *Attendance) Settle() (changes int, faults []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, list := range a.told {
		slices.SortStableFunc(list, func(x, y telling) int { return cmp.Compare(x.at.UnixNano(), y.at.UnixNano()) })
		changes += len(list)
		here := false
		for _, t := range list {
			if t.here == here {
				faults = append(faults, fmt.Sprintf("%s is told twice to be there: %v, %s", name, here, t.id))
			}
			here = t.here
		}
		if here {
			faults = append(faults, fmt.Sprintf("%s is there in the end", name))
		}
	}
	slices.Sort(faults)
	return changes, faults
}
