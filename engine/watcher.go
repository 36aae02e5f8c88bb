package engine

// Watcher is told what becomes of an event at one node. It is called with locks held: it returns quickly, and
// calls nothing of a connection but ID and Transport, and those on another goroutine.
type Watcher interface {
	// Became tells what has become of the event for a client. What is told last counts.
	Became(c Conn, o Outcome)

	// Routed tells once how many sockets of this node the event is for.
	Routed(sockets int)
}

// Outcome is what has become of an event for one client.
type Outcome uint8

// The first three are not the last that is told, unless the client does not come.
const (
	Queued        Outcome = iota + 1 // it waits behind others
	Held                             // it waits until the client is connected
	Parked                           // it waits for a client that may come back
	Written                          // the kernel has taken the last byte
	Acknowledged                     // the client has answered
	Unanswered                       // it was to be acknowledged, and was not in time
	NotReady                         // dropped: it is volatile, and the client was not ready
	DroppedNewest                    // dropped: the queue was full
	DroppedOldest                    // dropped for a newer one: the queue was full
	Replaced                         // dropped: a newer one with the same key has come
	TooSlow                          // dropped: the queue was full, and that has ended the connection
	TooMany                          // dropped: too many acknowledgements are awaited
	Disconnected                     // dropped: the connection had ended
	Lost                             // dropped: the connection has ended before it was written
)

// Waiting reports whether more is to come.
func (o Outcome) Waiting() bool { return o < Written }

// Dropped reports whether the client does not get the event.
func (o Outcome) Dropped() bool { return o >= NotReady }

func (o Outcome) String() string {
	texts := [...]string{
		"", "queued", "held until the client is connected", "kept until the client comes back", "written",
		"acknowledged", "not acknowledged in time", "volatile, and the client was not ready", "the queue was full",
		"the queue was full, a newer event has taken its place", "replaced by a newer event with its key",
		"the queue was full, which has ended the connection", "too many acknowledgements are awaited",
		"the connection had ended", "the connection ended before it was written",
	}
	if int(o) < len(texts) {
		return texts[o]
	}
	return "an outcome that this node does not know"
}
