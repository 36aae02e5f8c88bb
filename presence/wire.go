package presence

import (
	"net/url"
	"strings"

	"tether/hub"
	"tether/internal/wire"
)

// The topics of this package's questions; see [cluster.Node.Handle].
const (
	topicOnline byte = 32 + iota // which devices users have on a node
	topicWord                    // to an owner: what has changed on a node
	topicPull                    // from an owner: all that a node knows of its users
	topicCopy                    // from an owner to the deputy of its users: records

	// What a node answers says what it is; nobody asks these.
	topicPart  // it takes part
	topicOwner // it can own users

	topicRooms // which members a node shows in rooms; from a node that watches, or only looks
	topicFeed  // to a node that watches: what has changed in rooms
)

// wireVersion begins questions between owners and other nodes. A node that gets another version does not
// answer it as if it understood.
const wireVersion = 2

// batchBytes is about how large a message, or a page of an answer, gets.
const batchBytes = 32 << 10

const maxText = 1 << 20 // bytes

// reader takes a message of this package apart.
type reader struct{ wire.Reader }

func read(message []byte) reader { return reader{wire.Reader{Data: message}} }

func (r *reader) text() string { return r.Text(maxText) }

// splitKey says what a key is about. A user's key is the subject of its room, without what all subjects begin
// with. There is no comma in a namespace.
func (p *Presence) splitKey(key string) (namespace string, user hub.Target) {
	namespace, name, _ := strings.Cut(key[min(p.prefix, len(key)):], ",")
	kind, id, _ := strings.Cut(name, ":")
	if plain, err := url.PathUnescape(kind); err == nil {
		kind = plain
	}
	return namespace, hub.Kind(kind).User(id)
}
