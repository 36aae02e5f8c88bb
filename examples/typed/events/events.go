// Package events declares what the board and its pages say to each other.
package events

import (
	"time"

	"tether/event"
)

var (
	// Post asks for a note to be put on the board. The answer is the note as it stands there.
	Post = event.NewCall[Draft, Note]("post").Strict()

	// Typing tells the others that somebody writes.
	Typing = event.New[string]("typing")

	// Posted is told to everybody: a new note.
	Posted = event.New[Note]("posted")

	// Writes is told to everybody but the one who writes.
	Writes = event.New[string]("writes")

	// Confirm asks a client whether it is still there.
	Confirm = event.NewCall[Question, bool]("confirm")
)

// ServerToClient are the events that the server emits, for the front end: see tether types.
var ServerToClient = []event.Declared{Posted, Writes, Confirm}

// ClientToServer are those that clients emit.
var ClientToServer = []event.Declared{Post, Typing}

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
