package socketio

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestPlaceholdersAreChecked(t *testing.T) {
	for _, c := range []struct {
		data string
		n    int
		want error
	}{
		{`["a",{"_placeholder":true,"num":0}]`, 1, nil},
		{`["a",{"num":0,"_placeholder":true}]`, 1, nil},
		{`["a", { "_placeholder" : true , "num" : 0 } ]`, 1, nil},
		{`["a",{"\u005fplaceholder":true,"n\u0075m":0}]`, 1, nil},
		{`["a",{"b":[{"c":{"_placeholder":true,"num":1}}]},{"_placeholder":true,"num":0}]`, 2, nil},
		{`["a"]`, 2, nil},
		{`["_placeholder",{"num":0},{"_placeholder":false,"num":7},{"_placeholder":"true"}]`, 0, nil},
		{`["{\"_placeholder\":true,\"num\":9}"]`, 1, nil},
		{`["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]`, 2, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":1}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":-1}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":0.5}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":1e0}]`, 2, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":18446744073709551616}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":4294967296}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":"0"}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":"__proto__"}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":0,"x":1}]`, 1, ErrPlaceholder},
		{`["a",{"x":{"y":1},"_placeholder":true,"num":0}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"_placeholder":true,"num":0}]`, 1, ErrPlaceholder},
		{`["a",{"_placeholder":true,"num":0,"num":1}]`, 2, ErrPlaceholder},
		{`["a",{"_placeholder":false,"num":0,"_placeholder":true}]`, 2, ErrPlaceholder},
	} {
		if got := Placeholders([]byte(c.data), c.n); got != c.want {
			t.Errorf("%s with %d attachments: got %v, want %v", c.data, c.n, got, c.want)
		}
	}
}

func TestPlaceholdersAreRewritten(t *testing.T) {
	data := []byte(`["_placeholder",{"b":{"_placeholder":true,"num":0}},{ "num" : 1 , "_placeholder":true },{"num":5}]`)
	if got, want := string(shifted(data, 9)), `["_placeholder",{"b":{"_placeholder":true,"num":9}},{ "num" : 10 , "_placeholder":true },{"num":5}]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var asked []int
	remapped := AppendRemapped(nil, data, func(num int) int {
		asked = append(asked, num)
		return 7 - num
	})
	if got, want := string(remapped), `["_placeholder",{"b":{"_placeholder":true,"num":7}},{ "num" : 6 , "_placeholder":true },{"num":5}]`; got != want || !reflect.DeepEqual(asked, []int{0, 1}) {
		t.Errorf("got  %s, asked for %v\nwant %s", got, asked, want)
	}
	if got, want := string(AppendReplaced([]byte("x"), data, [][]byte{{1, 2}, []byte("hi")})), `x["_placeholder",{"b":"AQI="},"aGk=",{"num":5}]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := string(AppendReplaced(nil, data, [][]byte{{}})), `["_placeholder",{"b":""},{ "num" : 1 , "_placeholder":true },{"num":5}]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := string(AppendPlaceholder([]byte("["), 12)), `[{"_placeholder":true,"num":12}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestManyPlaceholdersTakeLinearTime(t *testing.T) {
	const n = 20000
	data := []byte{'['}
	for i := range n {
		data = AppendPlaceholder(data, i)
		data = append(data, strings.Repeat(" ", 20)+","...)
	}
	data = append(data, "0]"...)
	if err := Placeholders(data, n); err != nil {
		t.Fatal(err)
	}
	if err := Placeholders(data, n-1); err != ErrPlaceholder {
		t.Errorf("got %v, want %v", err, ErrPlaceholder)
	}
}

// reference finds the placeholders of v as the reference decoder does. It reports whether it would
// have accepted them all, and collects their numbers.
func reference(v any, n int, nums *[]int) bool {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if !reference(e, n, nums) {
				return false
			}
		}
	case map[string]any:
		if v["_placeholder"] == true {
			num, ok := v["num"].(float64)
			if !ok || num < 0 || int(num) >= n {
				return false
			}
			*nums = append(*nums, int(num))
			return true
		}
		for _, e := range v {
			if !reference(e, n, nums) {
				return false
			}
		}
	}
	return true
}

func FuzzPlaceholders(f *testing.F) {
	for _, s := range []string{`["a",{"_placeholder":true,"num":0}]`, `[{"num":1,"_placeholder":true},{"b":{"_placeholder":true,"num":0}}]`,
		`[{"_placeholder":true,"num":0,"x":{"_placeholder":true,"num":1}}]`, `[{"\u005fplaceholder":true,"num":2}]`, `{"_placeholder":true,"num":`,
		`[{"_placeholder" : true , "num" : 00}]`, `["_placeholder",true]`, `{"_placeholder":`, `{"num":`, `{"_placeholder":true,"num":1,"num":0}`, `[1e999]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const n = 3
		attachments := [][]byte{{}, {1}, {2, 3}}
		err := Placeholders(data, n)
		renumbered := shifted(data, 5)
		replaced := AppendReplaced(nil, data, attachments)
		if _, _, invalid := checkJSON(data, MaxDepth, 1<<20); invalid != nil || err != nil {
			return // it was enough that they returned
		}
		var v any
		if json.Unmarshal(data, &v) != nil {
			return // a number that no float64 can hold
		}
		var nums []int
		if !reference(v, n, &nums) {
			t.Fatalf("%q: the reference would have refused it", data)
		}
		if !json.Valid(renumbered) || !json.Valid(replaced) {
			t.Fatalf("%q became %q and %q", data, renumbered, replaced)
		}
		if back := shifted(renumbered, -5); !bytes.Equal(back, canonical(data)) {
			t.Fatalf("%q became %q and came back as %q", data, renumbered, back)
		}
		if len(nums) > 0 && Placeholders(renumbered, n+5) != nil {
			t.Fatalf("%q became %q", data, renumbered)
		}
		if Placeholders(replaced, 0) != nil {
			t.Fatalf("%q: placeholders are left in %q", data, replaced)
		}
	})
}

// canonical writes the numbers of all placeholders without leading zeros.
func canonical(data []byte) []byte { return shifted(data, 0) }

// shifted is data with offset added to the number of each placeholder.
func shifted(data []byte, offset int) []byte {
	return AppendRemapped(nil, data, func(num int) int { return num + offset })
}

func BenchmarkPlaceholders(b *testing.B) {
	data := []byte(`["blob",{"name":"holiday.jpg","data":{"_placeholder":true,"num":0}},{"_placeholder":true,"num":1}]`)
	b.ReportAllocs()
	for b.Loop() {
		if err := Placeholders(data, 2); err != nil {
			b.Fatal(err)
		}
	}
}
