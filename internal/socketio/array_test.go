package socketio

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestElementsAreRawText(t *testing.T) {
	for array, want := range map[string][]string{
		`[]`:  nil,
		`[ ]`: nil,
		`["a",1.50,{"b":[1,"]",{}]} , [ ] ,null,"\"],"]`: {`"a"`, `1.50`, `{"b":[1,"]",{}]}`, `[ ]`, `null`, `"\"],"`},
		` [ 1 ] `: {`1`},
		`{"a":1}`: nil,
		`"a"`:     nil,
		``:        nil,
	} {
		var got []string
		for _, e := range SplitArray(nil, []byte(array)) {
			got = append(got, string(e))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, want %q", array, got, want)
		}
	}
}

func TestElementsCanBeLeftEarly(t *testing.T) {
	n := 0
	for range Elements([]byte(`[1,2,3]`)) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("got %d elements, want 1", n)
	}
}

func TestElementsCannotGrowIntoTheirNeighbours(t *testing.T) {
	data := []byte(`[1,2]`)
	for e := range Elements(data) {
		_ = append(e, 'x')
	}
	if string(data) != `[1,2]` {
		t.Errorf("got %s, want the array as it was", data)
	}
}

func FuzzArray(f *testing.F) {
	for _, s := range []string{`[]`, `[1,"a",{"b":[]}]`, `[[[]],{"":{}}]`, ` [ 1 , 2 ] `, `["\u0000\\\"",-0.0e-1]`, `[`, `[1,]`, `{}`, `[01]`, `["` + "\x01" + `"]`,
		`["aaaaaaa\"bbbbbbbbbbb\\"]`, `"12345678` + "\x1f" + `"`, `[tru]`, `[nulll]`, `1e5`, strings.Repeat("[", 40)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		value, n, err := checkJSON(data, MaxDepth, 1<<30)
		if valid := json.Valid(data); valid != (err == nil) && err != ErrDepth {
			t.Fatalf("%q: got %v, and encoding/json says valid is %t", data, err, valid)
		}
		got := SplitArray(nil, data) // must end, whatever the data
		if err != nil {
			return
		}
		if !bytes.Equal(value, bytes.Trim(data, " \t\r\n")) {
			t.Fatalf("%q: got %q as the value", data, value)
		}
		var want []json.RawMessage
		if value[0] != '[' {
			return
		}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) || len(got) != n {
			t.Fatalf("%q: got %d elements and a count of %d, want %d", data, len(got), n, len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("%q: element %d is %q, want %q", data, i, got[i], want[i])
			}
		}
	})
}

func BenchmarkSplitArray(b *testing.B) {
	data := []byte(`["/users/ping",{"hello":"world","at":1732278000},[1,2,3],"x"]`)
	dst := make([][]byte, 0, 8)
	b.ReportAllocs()
	for b.Loop() {
		dst = SplitArray(dst[:0], data)
	}
}
