package sim

import (
	"strings"

	"tether/hub"
)

// The book knows rooms by their names. That of everyone is empty, those of users begin with "user:", and
// that of one socket is its ID.
const everyone = ""

func userRoom(id string) string { return "user:" + id }

// target is whom an emit to a room of the book is for.
func target(room string) hub.Target {
	if room == everyone {
		return hub.Everyone
	}
	if id, ok := strings.CutPrefix(room, "user:"); ok {
		return hub.User(id)
	}
	if s := hub.SocketID(room); s != (hub.Target{}) {
		return s
	}
	return hub.Room(room)
}

// roomOf is the reverse of target.
func roomOf(t hub.Target) string {
	if t == hub.User(t.Name()) {
		return userRoom(t.Name())
	}
	return t.Name()
}

// subject is what the broker knows a room of a namespace by.
func subject(namespace, room string) string {
	if t := target(room); t == hub.Room(room) {
		room = ":" + room
	}
	return "tether:" + namespace + "," + room
}
