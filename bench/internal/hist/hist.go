// Package hist is a histogram of durations with a bounded relative error, in the manner of
// HdrHistogram: histograms of several processes are merged by adding their counts, so a percentile
// of the whole is a percentile and not an average of percentiles.
package hist

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/bits"
	"slices"
	"time"
)

const (
	subBits    = 8                                      // 256 steps for each power of two: an error below 0.4 %
	sub        = 1 << subBits                           //
	maxExp     = 42                                     // values of 2^42 ns, 73 minutes, and more share the last step
	maxValue   = 1<<maxExp - 1                          //
	bucketsAll = (maxExp-subBits)*(sub/2) + sub         //
	maxEncoded = 2 * bucketsAll * binary.MaxVarintLen64 //
)

// Hist counts durations. The zero value is empty and ready. It is not safe for concurrent use.
type Hist struct {
	counts []uint64 // allocated with the first value
	n      uint64
	sum    float64
	min    int64
	max    int64
}

// index is the step that v falls into: exact below 256 ns, then 128 steps for each power of two.
func index(v int64) int {
	if v < sub {
		return int(v)
	}
	exp := bits.Len64(uint64(v)) - subBits // how far v must be shifted to fit into subBits bits
	return exp*(sub/2) + int(v>>exp)
}

// value is the middle of step i.
func value(i int) int64 {
	if i < sub {
		return int64(i)
	}
	exp := i/(sub/2) - 1
	low := int64(i-exp*(sub/2)) << exp
	return low + int64(1)<<exp/2
}

// Add counts d once. Negative durations count as zero.
func (h *Hist) Add(d time.Duration) { h.AddN(d, 1) }

// AddN counts d n times.
func (h *Hist) AddN(d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	v := min(max(int64(d), 0), maxValue)
	if h.counts == nil {
		h.counts = make([]uint64, bucketsAll)
	}
	if h.n == 0 || v < h.min {
		h.min = v
	}
	h.max = max(h.max, v)
	h.counts[index(v)] += n
	h.n += n
	h.sum += float64(v) * float64(n)
}

// Merge adds the counts of o to h.
func (h *Hist) Merge(o *Hist) {
	if o == nil || o.n == 0 {
		return
	}
	if h.counts == nil {
		h.counts = make([]uint64, bucketsAll)
	}
	for i, c := range o.counts {
		h.counts[i] += c
	}
	if h.n == 0 || o.min < h.min {
		h.min = o.min
	}
	h.max = max(h.max, o.max)
	h.n += o.n
	h.sum += o.sum
}

// Clone is a copy that shares nothing with h.
func (h *Hist) Clone() Hist {
	c := *h
	c.counts = slices.Clone(h.counts)
	return c
}

// Reset empties h.
func (h *Hist) Reset() { *h = Hist{} }

// Count is the number of values.
func (h *Hist) Count() uint64 { return h.n }

// Max is the largest value, exactly.
func (h *Hist) Max() time.Duration { return time.Duration(h.max) }

// Min is the smallest value, exactly.
func (h *Hist) Min() time.Duration { return time.Duration(h.min) }

// Mean is the mean of the values, exactly; 0 when there are none.
func (h *Hist) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return time.Duration(h.sum / float64(h.n))
}

// Quantile is the value that the share q (0 to 1) of all values does not exceed, within 0.4 %. It
// is 0 when there are no values.
func (h *Hist) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(h.n))), 1)
	if rank >= h.n {
		return time.Duration(h.max)
	}
	var seen uint64
	for i, c := range h.counts {
		if seen += c; seen >= rank {
			return time.Duration(min(max(value(i), h.min), h.max))
		}
	}
	return time.Duration(h.max)
}

// Above is the number of values in steps wholly above d.
func (h *Hist) Above(d time.Duration) uint64 {
	if h.n == 0 {
		return 0
	}
	var n uint64
	for _, c := range h.counts[index(min(max(int64(d), 0), maxValue))+1:] {
		n += c
	}
	return n
}

type encoded struct {
	N      uint64  `json:"n"`
	Min    int64   `json:"min"`
	Max    int64   `json:"max"`
	Sum    float64 `json:"sum"`
	Counts string  `json:"counts,omitempty"` // base64 of pairs of uvarints: steps skipped, count
}

// MarshalJSON writes every count, so that files can be merged later.
func (h Hist) MarshalJSON() ([]byte, error) {
	var raw []byte
	last := -1
	for i, c := range h.counts {
		if c == 0 {
			continue
		}
		raw = binary.AppendUvarint(raw, uint64(i-last-1))
		raw = binary.AppendUvarint(raw, c)
		last = i
	}
	return json.Marshal(encoded{h.n, h.min, h.max, h.sum, base64.RawStdEncoding.EncodeToString(raw)})
}

var errEncoding = errors.New("hist: the counts are not well formed")

// UnmarshalJSON reads what MarshalJSON wrote, and refuses anything that does not add up.
func (h *Hist) UnmarshalJSON(data []byte) error {
	var e encoded
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	if len(e.Counts) > maxEncoded {
		return errEncoding
	}
	raw, err := base64.RawStdEncoding.DecodeString(e.Counts)
	if err != nil {
		return errEncoding
	}
	out := Hist{n: e.N, min: e.Min, max: e.Max, sum: e.Sum}
	var total uint64
	if len(raw) > 0 {
		out.counts = make([]uint64, bucketsAll)
	}
	for i := -1; len(raw) > 0; {
		skip, a := binary.Uvarint(raw)
		if a <= 0 || skip >= bucketsAll {
			return errEncoding
		}
		c, b := binary.Uvarint(raw[a:])
		if i += int(skip) + 1; b <= 0 || i >= bucketsAll {
			return errEncoding
		}
		out.counts[i] = c
		total += c
		raw = raw[a+b:]
	}
	if total != e.N || e.Min < 0 || e.Max > maxValue || e.Min > e.Max {
		return errEncoding
	}
	*h = out
	return nil
}
