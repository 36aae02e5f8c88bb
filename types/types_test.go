package types

import (
	"strings"
	"testing"
	"time"

	"tether/event"
	"tether/hub"
	"tether/internal/long"
	"tether/types/internal/sample"
)

func TestTypesThatNeedNoSourcesAreWrittenAtOnce(t *testing.T) {
	var b strings.Builder
	err := Write(&b, Events{
		Server: List{
			event.New[time.Time]("now"), event.New[[]*int]("numbers"), event.New[map[string][]any]("anything"),
			event.New[struct{}]("nothing"), event.New[hub.Binary]("bytes"), event.NewCall[string, bool]("ask"),
		},
		Client: List{event.NewCall[string, float64]("count the \"words\"")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"now": (arg: string) => void;`,
		`"numbers": (arg: (number | null)[]) => void;`,
		`"anything": (arg: Record<string, unknown[]>) => void;`,
		`"nothing": (arg: Record<string, never>) => void;`,
		`"bytes": (arg: ArrayBuffer) => void;`,
		`"ask": (arg: string, answer: (answer: boolean) => void) => void;`,
		`"count the \"words\"": (arg: string, answer: (answer: number | null, refusal?: Refusal) => void) => void;`,
	} {
		if !strings.Contains(b.String(), "    "+want+"\n") {
			t.Errorf("there is no %s in:\n%s", want, b.String())
		}
	}
}

func TestNamesAreWrittenAsTypeScriptHasThem(t *testing.T) {
	for name, want := range map[string]string{
		"Order":                            "Order",
		"Page[tether/shop.Order]":          "Page<Order>",
		"Pair[int,example.org/a.b/shop.X]": "Pair<number, X>",
		"Page[string]":                     "Page<string>",
	} {
		if got := instance(name); got != want {
			t.Errorf("%s is written %s, want %s", name, got, want)
		}
	}
}

func TestCommentsGenericsAndConstantsComeAlong(t *testing.T) {
	long.Only(t) // guts checks the types of all that is imported
	var b strings.Builder
	if err := Write(&b, Events{Server: List{sample.Listed}, Client: List{sample.Paint}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"    /** Listed is a page of things. */\n    \"listed\": (arg: Page<Thing>) => void;",
		"export interface Page<T extends any> {",
		"    items: T[];",
		`export type Color = "green" | "red";`,
		" * Thing is what there is.",
		"    raw: ArrayBuffer;",
		"    self: unknown;",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("there is no %s in:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "Unused") {
		t.Errorf("a type that no event uses is written:\n%s", b.String())
	}
}
