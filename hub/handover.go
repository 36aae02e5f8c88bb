package hub

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"tether/cluster"
)

// A session goes from the node that has it to the node that its client has come to, in these steps:
//
//	claim   the old node ends what is left of the connection, and says what the session is: it stays parked there,
//	        and goes on keeping what comes
//	        the new node joins the rooms, runs the hooks, and holds what comes
//	take    everything that was published before those joins has arrived at the old node, which a fence in each room
//	        proves; it says what the client does not have, and what it has seen
//	        the new node puts that before what it holds, without what is in both
//	done    the old node has passed it on; only now the client is answered
//	late    a moment later the old node tells of what it has seen since the take. The new one has that by itself
//
// If the new node dies before done, the old one still has the session; if the old one is silent, the client is not
// recovered. A claim has a number, and ends the one before it; a change of the session's rooms ends it too. Then done is
// refused, and the client comes again. So a session is handed over once at most, and nothing is guessed.
//
// A session that has moved keeps its pid and its ID, which name the node where it began. Each node remembers
// where the sessions that it had have gone; where that node is gone, all are asked. What is emitted to the ID is
// passed on by the node that it names, to a room that has the name of the ID, and by the emitter where that node is
// gone.

const (
	sessionClaim byte = iota
	sessionTake
	sessionDone
	sessionRefuse // the hooks of the new node have refused the socket
	sessionLate
	sessionChange // of its rooms, or its end: the question came to the node that had it
)

// What a node says of a session: a loss, or one of these.
const (
	sessionHere  byte = 100 + iota
	sessionMoved      // behind it the tag of the node that has it
)

const (
	claimTime   = 2 * time.Second // for a question to the node that has a session
	refuseTime  = time.Second
	shadowTime  = time.Second           // for which a node keeps a session that it has passed on
	lateTime    = 50 * time.Millisecond // for which what the old node has got last may still be on its way to the new one
	fenceGrace  = 20 * time.Millisecond // for messages that are on their way where the broker has no single order
	seenTime    = 10 * time.Second      // for which a node remembers what another one has seen
	maxHops     = 6
	hopPause    = 10 * time.Millisecond // while a session is on its way here for a connection that has gone
	searchLimit = 50                    // searches of all nodes in a second
)

// errLost says that a session was lost on its way from another node.
var errLost = errors.New("hub: the node that has the session does not hand it over")

// key names a session among nodes. The secret itself stays where the client is.
type key struct {
	tag   string // of the node where it began
	place uint32 // there
	hash  [sha256.Size]byte
}

func keyOf(tag string, place uint32, secret []byte) key {
	return key{tag, place, sha256.Sum256(secret)}
}

// holder is the socket on this node that has the session, nil if there is none.
func (h *Hub) holder(k key) *Socket {
	if s := h.guests.of(k.hash); s != nil {
		return s
	}
	if k.tag != h.tag {
		return nil
	}
	o := h.sockets.at(k.place)
	if o == nil {
		return nil
	}
	if v := o.sessionOf(); v == nil || sha256.Sum256(v.secret[:]) != k.hash { // of a hash, so its time tells nothing
		return nil
	}
	if o.passedOn() && h.lapsed.whyOf(k.hash) != lossUnknown {
		return nil // it has come back since, to another socket, and has ended here
	}
	return o
}

// question is what another node is asked:
//
//	byte     what is to be done
//	         hash of the secret
//	text     tag of the node where the session began
//	uvarint  its place there
//	text     tag of the node that asks
//	8 bytes  number of its claim
//	rest     what the step needs
func (k *key) question(op byte, asker string, claim uint64, rest ...[]byte) []byte {
	b := appendText(append([]byte{op}, k.hash[:]...), k.tag)
	b = appendText(binary.AppendUvarint(b, uint64(k.place)), asker)
	b = binary.BigEndian.AppendUint64(b, claim)
	for _, r := range rest {
		b = append(b, r...)
	}
	return b
}

// askSession asks one node, or all with "", and returns the first useful answer; nil if there is none. After an error
// nobody was asked.
func (h *Hub) askSession(ctx context.Context, to string, body []byte) (answer []byte, err error) {
	asking := h.cluster.Ask(ctx, cluster.Question{Topic: topicSession, Body: body, To: to, Others: to == ""})
	for _, page := range asking.Pages {
		if len(page) > 0 && (answer == nil || page[0] != byte(lossUnknown)) {
			answer = page
		}
		if len(page) > 0 && page[0] >= sessionHere {
			break
		}
	}
	return answer, questionError(asking.Err())
}
