package hub

import "strings"

// Room names a set of sockets of one namespace, on all nodes. It can be any text. A room exists while
// a socket is in it; nobody creates or deletes it.
//
// A room is a capability: who is in "user:42" gets what is meant for user 42. An application that
// lets clients choose rooms puts a prefix of its own before what they send; without one, an empty name,
// which JSON's null decodes to, is [Everyone].
type Room string

// Everyone is the room that every connected socket of a namespace is in.
const Everyone Room = ""

// User is the room of a user: the sockets that [Socket.Register] has made that user's.
func User(id string) Room { return Kind("user").Room(id) }

// Kind is a kind of user, for applications with several whose IDs may be equal: "admin-user", say.
// [User] is the kind "user".
type Kind string

// Room is the room of the user of kind k with the given ID. Two rooms are equal only if both kind and
// ID are: a colon in a kind is escaped, and an ID may contain anything.
func (k Kind) Room(id string) Room {
	kind := string(k)
	if strings.ContainsAny(kind, "%:") {
		kind = strings.NewReplacer("%", "%25", ":", "%3A").Replace(kind)
	}
	return Room(kind + ":" + id)
}

// userOf is the reverse of User.
func userOf(r Room) (id string, ok bool) { return strings.CutPrefix(string(r), "user:") }

// The subjects of the broker. A room's is prefix:namespace,room; a namespace has no comma in it, so
// no two rooms share one. A node's own is prefix@tag.

func roomSubject(prefix, namespace string, r Room) string {
	return prefix + ":" + namespace + "," + string(r)
}

func nodeSubject(prefix, tag string) string { return prefix + "@" + tag }
