package hub

import (
	"slices"
	"strings"
)

// Target says which sockets of a namespace a call is for, on whatever nodes they are: those of a [User],
// those in a [Room], one socket ([SocketID]), or [Everyone]. Two targets are equal if they name the same.
// The zero value names nobody: a call with it fails with ErrTarget. It is also what an empty name gives,
// and a text that is no socket's ID.
type Target struct {
	kind targetKind
	name string // of the room in the index, different for targets of different kinds; "" of everyone
}

type targetKind uint8

const (
	nobody targetKind = iota
	everyone
	named
	user
	single
)

// Everyone is the target of every connected socket of a namespace.
var Everyone = Target{kind: everyone}

// Room is the target of the sockets that have joined the room with the given name, which can be any text.
// A room exists while a socket is in it; nobody creates or deletes it. Whatever its name, it is not the room
// of a user or of a single socket, so clients may be let choose names.
func Room(name string) Target {
	if name == "" {
		return Target{}
	}
	return Target{named, ":" + name}
}

// User is the target of the sockets that [Socket.Register] has made the user's with the given ID.
func User(id string) Target { return Kind("user").User(id) }

// SocketID is the target of the socket with the given [Socket.ID].
func SocketID(id string) Target {
	if !isID(id) {
		return Target{}
	}
	return Target{single, id}
}

// Kind is a kind of user, for applications with several whose IDs may be equal: "admin-user", say.
// The function [User] is for the kind "user".
type Kind string

// User is the target of the user of kind k with the given ID. It is registered with [Socket.RegisterAs].
func (k Kind) User(id string) Target {
	if k == "" || id == "" {
		return Target{}
	}
	kind := string(k)
	if strings.ContainsAny(kind, "%:") { // so that the first colon is the end of the kind
		kind = strings.NewReplacer("%", "%25", ":", "%3A").Replace(kind)
	}
	return Target{user, kind + ":" + id}
}

// Name is what the target was made of: the name of a room, the ID of a user or a socket, "" for others.
func (t Target) Name() string {
	switch t.kind {
	case named, user:
		_, name, _ := strings.Cut(t.name, ":")
		return name
	}
	return t.name
}

func (t Target) String() string {
	switch t.kind {
	case everyone:
		return "everyone"
	case named:
		return "room" + t.name
	case user:
		return t.name
	case single:
		return "socket:" + t.name
	}
	return "nobody"
}

// joinable reports whether sockets can join t, and leave it.
func (t Target) joinable() bool { return t.kind == named || t.kind == user }

// targetOf is the target whose room in the index has the given name.
func targetOf(name string) Target {
	switch {
	case name == "":
		return Everyone
	case name[0] == ':':
		return Target{named, name}
	case strings.Contains(name, ":"):
		return Target{user, name}
	}
	return SocketID(name)
}

// The subjects of the broker. A room's is prefix:namespace,name; a namespace has no comma in it, so
// no two rooms share one. See [cluster.NodeSubject] for that of a node.

func roomSubject(prefix, namespace string, t Target) string {
	return prefix + ":" + namespace + "," + t.name
}

func distinct(targets []Target) []Target {
	seen := make(map[Target]bool, len(targets))
	return slices.DeleteFunc(slices.Clone(targets), func(t Target) bool {
		was := seen[t]
		seen[t] = true
		return was
	})
}
