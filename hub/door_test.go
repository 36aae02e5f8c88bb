package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// reason is why an argument does not fit, "" if it does.
func reason[T any](text string) string {
	m := &Message{args: [][]byte{[]byte(text)}}
	_, err := accept[T](m, make(shapes).of(reflect.TypeFor[T]()))
	if err == nil {
		return ""
	}
	if !errors.Is(err, ErrArgs) {
		return "not ErrArgs: " + err.Error()
	}
	return unfit(err)
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
		{`{"title":"tea","lines":[{"count":"one"}],"by":"ann"}`, `"lines.count" cannot be a string`},
		{`null`, `is null`},
	} {
		want := tt.want
		if want != "" {
			want = "arguments do not fit: " + want
		}
		if got := reason[order](tt.text); got != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, got, want)
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

// percent checks itself on the value, name on the pointer.
type percent int

func (p percent) Validate() error {
	if p < 0 || p > 100 {
		return fmt.Errorf("%d is no percentage", int(p))
	}
	return nil
}

type name struct{ Text string }

func (n *name) Validate() error {
	if n.Text == "" {
		return Refuse("a name is needed", map[string]int{"at least": 1})
	}
	return nil
}

func TestATypeChecksItsOwnValuesBeforeTheHandler(t *testing.T) {
	h := alone(t, Options{})
	n := h.Of("/")
	NewEvent[percent]("volume").Handle(n, func(_ context.Context, s *Socket, v percent) error { return s.Emit("set", v) })
	NewCall[name, string]("rename").Handle(n, func(_ context.Context, _ *Socket, v name) (string, error) { return v.Text, nil })
	NewCall[order, int]("order").Strict().Handle(n, func(_ context.Context, _ *Socket, o order) (int, error) { return len(o.Lines), nil })
	p, _ := connect(t, h)
	for i, c := range []struct{ event, want string }{
		{`["volume",101]`, `[null,{"message":"arguments do not fit: 101 is no percentage"}]`},
		{`["rename",{"Text":""}]`, `[null,{"message":"a name is needed","data":{"at least":1}}]`},
		{`["rename",{"text":"ann","more":1}]`, `["ann"]`},
		{`["order",{"title":"tea","lines":[],"by":"ann","x":1}]`, `[null,{"message":"arguments do not fit: \"x\" is not known"}]`},
		{`["order"]`, `[null,{"message":"arguments do not fit"}]`},
		{`["order",{"title":"tea","lines":[{"count":2}],"by":"ann"}]`, `[1]`},
	} {
		p.say(fmt.Sprintf("2%d%s", i, c.event))
		p.want(fmt.Sprintf("43%d%s", i, c.want))
	}
	p.say(`2["volume",-1]`, `2["volume",50]`)
	p.want(`42["set",50]`)
	if got := h.Stats().Unfit; got != 5 {
		t.Errorf("%d events are counted as unfit, want 5", got)
	}
}

func BenchmarkAccept(b *testing.B) {
	m := &Message{args: [][]byte{[]byte(`{"title":"a cup of tea","lines":[{"count":1},{"count":2}],"note":"hot","by":"ann"}`)}}
	for name, strict := range map[string]*shape{"lenient": nil, "strict": make(shapes).of(reflect.TypeFor[order]())} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := accept[order](m, strict); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("with Validate", func(b *testing.B) {
		b.ReportAllocs()
		m := &Message{args: [][]byte{[]byte(`50`)}}
		for b.Loop() {
			if _, err := accept[percent](m, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("without Validate", func(b *testing.B) {
		b.ReportAllocs()
		m := &Message{args: [][]byte{[]byte(`50`)}}
		for b.Loop() {
			if _, err := accept[int](m, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
