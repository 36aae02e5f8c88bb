package nats_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"tether/broker"
	"tether/internal/backend"
)

// TestRecordsAreRefusedWhenThereAreTooManyBytes of them, and nothing else is.
func TestRecordsAreRefusedWhenThereAreTooManyBytes(t *testing.T) {
	t.Parallel()
	s := backend.JetStream(t, t.TempDir())
	l := logged(t, open(t, withLog(s.URL, "tether", kept)+"&log_records=50000"))
	before := l.head(t)
	save := func(i, version, size int) error {
		for {
			ok, err := l.Save(t.Context(), fmt.Sprint(i), "", broker.Record{Owner: "a", Version: uint64(version), Value: make([]byte, size)})
			if err == nil && !ok {
				t.Fatalf("record %d has another owner", i)
			}
			if err == nil || strings.Contains(err.Error(), "log_records") {
				return err
			}
			if !errors.Is(err, broker.ErrUnavailable) {
				t.Fatal(err)
			}
		}
	}
	n := 0
	for save(n, 1, 1000) == nil {
		n++
	}
	if n < 30 || n > 50 {
		t.Errorf("%d records of 1,000 bytes fit into 50,000", n)
	}
	if err := save(n, 1, 1000); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("one too many: %v", err)
	}
	s.Stop()
	s.Start()
	l.head(t) // the generation is beside them
	for i := range n {
		if err := save(i, 2, 1000); err != nil {
			t.Errorf("record %d once more: %v", i, err)
		}
		if r, err := l.Load(t.Context(), fmt.Sprint(i)); err != nil || r.Version != 2 || len(r.Value) != 1000 {
			t.Errorf("record %d: version %d, %v", i, r.Version, err)
		}
	}
	if err := save(0, 3, 3000); err == nil {
		t.Error("a record grows although there is no place")
	}
	l.add(t, "x", "1")
	if got := l.read(t, "x", before); got != "forgotten" {
		t.Errorf("over the restart: %q", got)
	}
	for i := range 2 {
		if err := l.Drop(t.Context(), fmt.Sprint(i), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := save(n, 1, 1000); err != nil {
		t.Errorf("when others are gone: %v", err)
	}
}
