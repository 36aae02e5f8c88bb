package hub

import (
	"errors"
	"fmt"

	"tether/engine"
)

// The errors of this package that callers branch on. What the broker could not do comes wrapped in
// the broker's own errors, [tether/broker.ErrUnavailable] above all.
var (
	// ErrDraining is returned by [Hub.Attach] once [Hub.Run] has been told to end.
	ErrDraining = engine.ErrDraining

	// ErrNotRunning is what [Hub.Ready] says before Run has the broker's first sign of life, and
	// after Run has returned.
	ErrNotRunning = errors.New("hub: not running")

	// ErrDisconnected says that the socket is gone, or was when the call waited for its client.
	ErrDisconnected = engine.ErrDisconnected

	// ErrSlowConsumer says that the queue of a client is full, and that it did not get an event: it reads
	// more slowly than it is written to, or was sent more at once than transport.Options.QueueBytes. A handler
	// that has much to say calls [Socket.Wait] before each event.
	ErrSlowConsumer = engine.ErrSlowConsumer

	// ErrTooMany is returned for what is more than a limit: by [Socket.Join] past Limits.Rooms, by
	// [Socket.EmitAck] past Limits.Acks, by an [Emitter] when the targets that it excepts, and those of an
	// EmitUnion, are more than 256 together, and for an event with more than ten binary values.
	ErrTooMany = errors.New("hub: too many")

	// ErrTarget is returned for a [Target] that names nobody, and by calls that are for targets of another
	// kind.
	ErrTarget = errors.New("hub: no such target: a name is empty, or the ID of no socket")

	// ErrTooManyDevices is returned by [Socket.Register] when Options.Devices refuses the socket.
	// Returned from a connect hook it refuses the client with the message "too many devices".
	ErrTooManyDevices = errors.New("hub: too many devices")

	// ErrNoHandler says that a client has no handler for an event that it was to answer: it has answered as a hub does,
	// with null and {"message": "no handler for this event"}. The stock client does not do so by itself, see
	// [Emitter.EmitAck].
	ErrNoHandler = errors.New("hub: the client has no handler for the event")

	// ErrEvent is returned for an event that may not be emitted: one that is not in the list of allowed events,
	// or whose name Socket.IO uses for its own: connect, connect_error, disconnect, disconnecting, newListener
	// and removeListener.
	ErrEvent = errors.New("hub: event may not be emitted")

	// ErrNamespace is returned for a namespace that cannot stand in a packet (a comma, a control
	// character), and by the emitter of a [Hub.Match], which is no namespace of its own.
	ErrNamespace = errors.New("hub: no such namespace is possible")

	// ErrArgs says that a message's arguments do not fit what the handler wanted. It is the client's
	// mistake: returned from a handler it is logged for debugging only, and the client is told.
	ErrArgs = errors.New("hub: arguments do not fit")
)

// Mistakes of the caller, which nobody branches on.
var (
	errConnecting = errors.New("hub: socket is still connecting: the client answers when its connect hooks have returned")
	errAcked      = errors.New("hub: already acknowledged")
	errTerms      = errors.New("hub: no such policy, or a key that is too long")
	errNoHub      = errors.New("hub: emitter has no hub")
)

// The limits of ErrTooMany.
var (
	errTooManyRooms       = fmt.Errorf("%w rooms", ErrTooMany)
	errTooManyAttachments = fmt.Errorf("%w binary attachments", ErrTooMany)
	errTooManyAcks        = fmt.Errorf("%w acknowledgements are awaited", ErrTooMany)
)

// Refusal is an error that the client gets to see, in CONNECT_ERROR or in the answer to an event.
type Refusal struct {
	Message string
	Data    any // encoded as JSON; nil: left out
}

// Refuse returns a *Refusal: a middleware or connect hook that returns it refuses the client with
// this message and data. Of any other error the client is told only "connection refused". From a handler
// of an event it is the answer to a client that waits for one: see [Namespace.On].
func Refuse(message string, data any) error { return &Refusal{Message: message, Data: data} }

func (r *Refusal) Error() string { return "hub: refused: " + r.Message }

// protocolError is what a client did wrong, in fixed words.
type protocolError string

func (e protocolError) Error() string { return "hub: " + string(e) }

const (
	errJoinedTwice    protocolError = "CONNECT to a namespace that is joined"
	errNotJoined      protocolError = "packet for a namespace that is not joined"
	errWrongDirection protocolError = "CONNECT_ERROR from a client"
	errMissingBinary  protocolError = "text while attachments are missing"
	errUnasked        protocolError = "binary that no packet announced"
	errTooMuchBinary  protocolError = "attachments are too large together"
	errFlood          protocolError = "too many events in flight"
)
