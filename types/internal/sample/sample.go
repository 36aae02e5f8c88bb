// Package sample has the events of a test.
package sample

import (
	"encoding/json"

	"tether/event"
	"tether/hub"
)

// Listed is a page of things.
var Listed = event.New[Page[Thing]]("listed")

// Paint asks for another color.
var Paint = event.NewCall[Color, Thing]("paint")

// Page is a part of a list.
type Page[T any] struct {
	Items []T `json:"items"`
}

// Thing is what there is.
type Thing struct {
	Color Color      `json:"color"`
	Raw   hub.Binary `json:"raw"`
	Self  Own        `json:"self"`
}

// Color is a color.
type Color string

// The colors.
const (
	Red   Color = "red"
	Green Color = "green"
)

// Own encodes itself.
type Own struct{ Inside int }

// MarshalJSON implements [json.Marshaler].
func (o Own) MarshalJSON() ([]byte, error) { return json.Marshal(o.Inside) }

// Unused is in no event.
type Unused struct{ Nothing int }
