package event

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// order is what clients send in these tests.
type order struct {
	Title string    `json:"title"`
	Lines []item    `json:"lines"`
	Note  string    `json:"note,omitempty"`
	Gift  *item     `json:"gift,omitempty"`
	Due   time.Time `json:"due,omitzero"`
	stamp
	hidden int //lint:ignore U1000 a client cannot set it
}

type item struct {
	Count int              `json:"count"`
	Tags  map[string]label `json:"tags,omitempty"`
}

type label struct {
	Color string `json:"color"`
	Inner *label `json:"inner,omitempty"`
}

type stamp struct {
	By  string `json:"by"`
	Raw []byte `json:"raw,omitempty"`
}

// reason is why an argument does not have the shape of its type, "" if it has.
func reason[T any](text string) string {
	if wrong := make(shapes).of(reflect.TypeFor[T]()).check([]byte(text)); wrong != nil {
		return wrong.Error()
	}
	return ""
}

func TestAStrictArgumentHasTheFieldsOfItsType(t *testing.T) {
	const good = `{"title":"tea","lines":[{"count":1}],"by":"ann"}`
	for _, tt := range []struct{ text, want string }{
		{good, ``},
		{`{"title":"tea","lines":null,"by":"ann","note":"n","gift":null,"due":"2026-01-02T03:04:05Z","raw":"AAA="}`, ``},
		{`{"title":"tea","lines":[{"count":1,"tags":{"a":{"color":"red","inner":{"color":"blue"}}}}],"by":"ann"}`, ``},
		{`{"lines":[],"by":"ann"}`, `"title" is missing`},
		{`{"title":"tea","lines":[]}`, `"by" is missing`},
		{`{}`, `"title" is missing`},
		{`{"title":null,"lines":[],"by":"ann"}`, `"title" is null`},
		{`{"title":"tea","lines":[],"by":"ann","price":1}`, `"price" is not known`},
		{`{"Title":"tea","lines":[],"by":"ann"}`, `"Title" is not known`},
		{`{"title":"tea","lines":[],"by":"ann","hidden":1}`, `"hidden" is not known`},
		{`{"title":"tea","lines":[{"count":1},{"counts":1}],"by":"ann"}`, `"lines[1].counts" is not known`},
		{`{"title":"tea","lines":[{}],"by":"ann"}`, `"lines[0].count" is missing`},
		{`{"title":"tea","lines":[{"count":1,"tags":{"a":{}}}],"by":"ann"}`, `"lines[0].tags[\"a\"].color" is missing`},
		{`{"title":"tea","lines":[],"by":"ann","gift":{}}`, `"gift.count" is missing`},
		{`{"title":"tea","lines":[{"count":1,"tags":{"a":{"color":"red","inner":{"colour":"blue"}}}}],"by":"ann"}`,
			`"lines[0].tags[\"a\"].inner.colour" is not known`},
		{`{"title":"tea","lines":[{"count":"one"}],"by":"ann"}`, ``}, // that is for the decoder
		{`null`, `is null`},
	} {
		if got := reason[order](tt.text); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
	for text, got := range map[string]string{
		`7`: reason[int](`7`), `[1,2]`: reason[[]int](`[1,2]`), `{"x":1}`: reason[map[string]int](`{"x":1}`),
		`"any"`: reason[any](`"any"`), `null`: reason[*order](`null`), `{"X":1}`: reason[json.RawMessage](`{"X":1}`),
	} {
		if got != "" {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// FuzzStrict holds the shape against encoding/json, which can refuse unknown fields by itself.
func FuzzStrict(f *testing.F) {
	for _, seed := range []string{`{"title":"tea","lines":[{"count":1}],"by":"ann"}`, `{"title":"","lines":[],"by":"","x":[{}]}`,
		`{"title":"","lines":[{"count":1,"tags":{"":{"color":""}}}],"by":""}`, `null`, `[]`} {
		f.Add(seed)
	}
	strict := make(shapes).of(reflect.TypeFor[order]())
	f.Fuzz(func(t *testing.T, text string) {
		if strict.check([]byte(text)) != nil || !json.Valid([]byte(text)) {
			return
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(new(order)); err != nil && strings.Contains(err.Error(), "unknown field") {
			t.Errorf("%s was let through: %v", text, err)
		}
	})
}

// BenchmarkStrict is what a strict event costs beside decoding, which every typed event costs.
func BenchmarkStrict(b *testing.B) {
	text := []byte(`{"title":"a cup of tea","lines":[{"count":1},{"count":2}],"note":"hot","by":"ann"}`)
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(text, new(order)); err != nil {
				b.Fatal(err)
			}
		}
	})
	strict := make(shapes).of(reflect.TypeFor[order]())
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if wrong := strict.check(text); wrong != nil {
				b.Fatal(wrong)
			}
		}
	})
}
