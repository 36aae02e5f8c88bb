package engine

// Overflow says what becomes of an event for a client whose queue is full. It is the event's own: no
// other event, whatever its policy, can have one dropped that was not emitted to be. Answers, and
// packets of the protocol itself, are never dropped.
type Overflow uint8

const (
	// AsConfigured leaves it to the transport's options, where it means CloseSlow.
	AsConfigured Overflow = iota

	// CloseSlow ends the connection with ReasonServerClose, so that the client, which comes back, knows
	// that it has missed something.
	CloseSlow

	// DropNewest drops the event.
	DropNewest

	// DropOldest drops events that wait and have this policy too, the oldest first, until the event fits;
	// the event itself if that is not enough. Events of other policies, answers, and packets of the
	// protocol have such events dropped to make room for them, before anything worse happens.
	DropOldest

	overflowEnd
)

// Valid reports whether there is such a policy.
func (o Overflow) Valid() bool { return o < overflowEnd }

// Terms are what a [Packet] asks of the queue that it waits in.
type Terms struct {
	// Key makes packets replace each other: of those with the same one, only the newest waits. It waits
	// where it came, at the end, so that what arrives has the order in which it was sent, with some of
	// it left out. Empty: none.
	Key string

	Overflow Overflow // when the queue is full; it counts only without Control
	Volatile bool     // the packet is dropped when it cannot be written now
	Control  bool     // an answer, or a packet of the protocol itself: it is never dropped
	More     bool     // another packet follows at once, so that nothing needs to be written before that
}
