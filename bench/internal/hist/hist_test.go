package hist

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestEveryStepContainsTheValuesThatAreCountedInIt(t *testing.T) {
	for _, v := range []int64{0, 1, 255, 256, 257, 511, 512, 1000, 123_456, 1 << 20, 1<<30 + 7, maxValue} {
		i := index(v)
		if i >= bucketsAll {
			t.Fatalf("index(%d) = %d, want below %d", v, i, bucketsAll)
		}
		got := value(i)
		if diff := got - v; diff > v/128+1 || -diff > v/128+1 {
			t.Errorf("value(index(%d)) = %d, too far", v, got)
		}
	}
	for i := range bucketsAll {
		if got := index(min(value(i), maxValue)); got != i {
			t.Fatalf("index(value(%d)) = %d", i, got)
		}
	}
}

func TestQuantilesAreWithinHalfAPercentOfTheSortedValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h Hist
	var all []int64
	for range 50_000 {
		v := int64(rng.ExpFloat64() * 1e6)
		all = append(all, v)
		h.Add(time.Duration(v))
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		got := int64(h.Quantile(q))
		if diff := float64(got-want) / float64(want+1); diff > 0.005 || diff < -0.005 {
			t.Errorf("Quantile(%v) = %d, want about %d", q, got, want)
		}
	}
	if h.Max() != time.Duration(all[len(all)-1]) || h.Min() != time.Duration(all[0]) {
		t.Errorf("Min, Max = %v, %v; want %v, %v", h.Min(), h.Max(), all[0], all[len(all)-1])
	}
}

func TestMergedHistogramsEqualOneHistogramOfAllValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var whole, merged Hist
	parts := make([]Hist, 4)
	for i := range 10_000 {
		d := time.Duration(rng.IntN(1 << (10 + i%25)))
		whole.Add(d)
		parts[i%len(parts)].Add(d)
	}
	for i := range parts {
		data, err := json.Marshal(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		var back Hist
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		merged.Merge(&back)
	}
	merged.Merge(&Hist{})
	if !slices.Equal(merged.counts, whole.counts) || merged.n != whole.n || merged.min != whole.min || merged.max != whole.max {
		t.Errorf("merged: n=%d min=%d max=%d; want n=%d min=%d max=%d", merged.n, merged.min, merged.max, whole.n, whole.min, whole.max)
	}
	if got, want := merged.Mean(), whole.Mean(); got != want {
		t.Errorf("Mean = %v, want %v", got, want)
	}
}

func TestAnEmptyHistogramSurvivesJSON(t *testing.T) {
	data, err := json.Marshal(Hist{})
	if err != nil {
		t.Fatal(err)
	}
	var h Hist
	if err := json.Unmarshal(data, &h); err != nil {
		t.Fatal(err)
	}
	if h.Count() != 0 || h.Quantile(0.5) != 0 || h.Mean() != 0 || h.Above(0) != 0 {
		t.Errorf("got %+v, want an empty histogram", h)
	}
}

func FuzzUnmarshalRefusesWhatDoesNotAddUp(f *testing.F) {
	f.Add([]byte(`{"n":1,"min":3,"max":3,"sum":3,"counts":"AwE"}`))
	f.Add([]byte(`{"n":2,"min":3,"max":3,"sum":3,"counts":"AwE"}`))
	f.Add([]byte(`{"n":0,"min":0,"max":0,"sum":0}`))
	f.Add([]byte(`{"n":1,"counts":"//////////8BAQ"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h Hist
		if json.Unmarshal(data, &h) != nil {
			return
		}
		var total uint64
		for _, c := range h.counts {
			total += c
		}
		if total != h.n {
			t.Fatalf("accepted %d counts for n = %d", total, h.n)
		}
		h.Quantile(0.99)
	})
}
