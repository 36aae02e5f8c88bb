// Package events declares what the board and its pages say to each other.
package events

import (
	"time"

	"tether/hub"
)

var (
	// Post asks for a note to be put on the board. The answer is the note as it stands there.
	Post = hub.NewCall[Draft, Note]("post").Strict()

	// Typing tells the others that somebody writes.
	Typing = hub.NewEvent[string]("typing")

	// Posted is told to everybody: a new note.
	Posted = hub.NewEvent[Note]("posted")

	// Writes is told to everybody but the one who writes.
	Writes = hub.NewEvent[string]("writes")

	// Confirm asks a client whether it is still there.
	Confirm = hub.NewCall[Question, bool]("confirm")
)

// Draft is a note before it is on the board.
type Draft struct {
	Title string   `json:"title"`
	Text  string   `json:"text,omitempty"`
	Color Color    `json:"color"`
	Tags  []string `json:"tags,omitempty"`
}

// Note is a note on the board.
type Note struct {
	Draft
	ID     int       `json:"id"`
	Author *string   `json:"author"` // null: nobody knows
	Posted time.Time `json:"posted"`
}

// Color is what a note looks like.
type Color string

// The colors that there are.
const (
	Yellow Color = "yellow"
	Pink   Color = "pink"
)

// Question is what a client is asked.
type Question struct {
	Text    string         `json:"text"`
	Details map[string]any `json:"details,omitempty"`
}
