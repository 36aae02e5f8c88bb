package hub

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestForgedPlaceholderIsRefusedBesideBinaryOnly(t *testing.T) {
	forged := json.RawMessage(`{"_placeholder":true,"num":0}`)
	for _, c := range []struct {
		name string
		args []any
		want error
	}{
		{"beside binary", []any{forged, Binary{1}}, errForged},
		{"out of range", []any{Binary{1}, json.RawMessage(`{"_placeholder":true,"num":7}`)}, errForged},
		{"in a value", []any{map[string]any{"_placeholder": true, "num": 0, "x": Binary{1}}}, errForged},
		{"alone, where it is only an object", []any{forged}, nil},
		{"a false one", []any{json.RawMessage(`{"_placeholder":false,"num":0}`), Binary{1}}, nil},
	} {
		e := newEncoder()
		if err := e.event("e", c.args); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		e.free()
	}
}

func TestBinaryOfNoBytesIsBinary(t *testing.T) {
	e := newEncoder()
	defer e.free()
	if err := e.event("e", []any{Binary{}, map[string]any{"x": []Binary{{}, nil, {1}}}}); err != nil {
		t.Fatal(err)
	}
	const want = `["e",{"_placeholder":true,"num":0},{"x":[{"_placeholder":true,"num":1},null,{"_placeholder":true,"num":2}]}]`
	if got := e.buf.String(); got != want || len(e.attachments) != 3 {
		t.Errorf("got %s with %d attachments, want %s", got, len(e.attachments), want)
	}
}
