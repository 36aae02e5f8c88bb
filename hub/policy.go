package hub

import "tether/engine"

// Overflow says what becomes of an event for a client whose queue is full: see [engine.Overflow]. Zero leaves it to
// transport.Options.Overflow.
type Overflow = engine.Overflow

// The policies of an event for a queue that is full. They are those of [engine.Overflow].
const (
	CloseSlow  = engine.CloseSlow  // the connection ends
	DropNewest = engine.DropNewest // the event is dropped
	DropOldest = engine.DropOldest // older events with this policy are dropped
)

// Reason says why a socket ended, in the words of Socket.IO.
type Reason = engine.Reason

// The reasons that Socket.IO names for the server side.
const (
	ReasonClientDisconnect = engine.ReasonClientDisconnect // the client sent DISCONNECT
	ReasonServerDisconnect = engine.ReasonServerDisconnect // Socket.Disconnect, a kick, an expired token
	ReasonTransportClose   = engine.ReasonTransportClose   // the client or the network closed the connection
	ReasonTransportError   = engine.ReasonTransportError   // the connection failed, or a limit was passed
	ReasonPingTimeout      = engine.ReasonPingTimeout      // the client did not answer a ping in time
	ReasonParseError       = engine.ReasonParseError       // the client sent what the protocol does not allow
	ReasonForcedClose      = engine.ReasonForcedClose      // CONNECT did not come in time
	ReasonServerClose      = engine.ReasonServerClose      // the server closed the connection, a slow consumer say
	ReasonShutdown         = engine.ReasonShutdown         // the hub drains
)
