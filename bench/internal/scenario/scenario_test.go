package scenario

import (
	"strings"
	"testing"
)

func TestTheBuiltinScenariosAreSoundAtAnyScale(t *testing.T) {
	all, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range all {
		names[s.Name] = true
		for _, by := range []float64{0.0001, 0.1, 2} {
			small := s.Scale(by, 0.1)
			if err := small.check(); err != nil {
				t.Errorf("%s times %v: %v", s.Name, by, err)
			}
		}
	}
	for _, name := range []string{"idle", "targeted", "broadcast", "burst", "storm", "cluster", "churn", "slow"} {
		if !names[name] {
			t.Errorf("no scenario is called %q", name)
		}
	}
}

func TestScenariosArePickedByNameAndByPattern(t *testing.T) {
	all, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Select(all, []string{"storm-redis", "targeted*", "targeted"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range got {
		names = append(names, s.Name)
	}
	if got, want := strings.Join(names, " "), "storm-redis targeted targeted-flat"; got != want {
		t.Errorf("picked %q, want %q", got, want)
	}
	if _, err := Select(all, []string{"nothing"}); err == nil {
		t.Error("an unknown name is accepted")
	}
}

func TestSenselessScenariosAreRefused(t *testing.T) {
	for _, text := range []string{
		`[{"name":"a"}]`, `[{"name":"a","title":"A","kind":"emit","conns":1,"columns":["x"]}]`,
		`[{"name":"a","title":"A","kind":"idle","conns":1,"columns":["x"],"steps":[2]}]`,
		`[{"name":"a","title":"A","kind":"storm","conns":5,"columns":["x"],"nodes":2}]`,
		`[{"name":"a","title":"A","kind":"storm","conns":900000,"columns":["x"]}]`, `[{"nam":"a"}]`, `{`,
	} {
		if _, err := Read(strings.NewReader(text)); err == nil {
			t.Errorf("Read(%s) accepts it", text)
		}
	}
}
