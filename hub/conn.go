package hub

import "sync/atomic"

// Conn is one client's wire: an Engine.IO session, whatever carries it at the moment. A transport
// implements it, hands it to [Hub.Attach], and from then on feeds the [Client] that it was given.
type Conn interface {
	// ID is the Engine.IO session ID. It is a secret between this client and the server.
	ID() string

	// Transport names what carries the session now: "polling" or "websocket".
	Transport() string

	// Send queues p and returns at once. Packets leave in the order of the calls. A volatile packet
	// is dropped, without an error, when the wire is not ready to take it now. When the queue is
	// full its policy decides: the packet or an older one is dropped, or the connection is closed.
	// Send is called from fan-out with no lock held, and must not call back into the hub on the
	// same goroutine. P may be lent: what is needed of it once Send has returned is p.Keep().
	//
	// If from is shut when p is about to take its place in the order, p is not sent, and the error is
	// [ErrDisconnected]. So nothing passes a gate after what is sent once it is shut.
	Send(p *Packet, from *Gate) error

	// Behind returns no channel when less than half of the queue is in use. Otherwise the channel is closed
	// once that is so again, or the session has ended. The error says that nothing is sent any more.
	Behind() (<-chan struct{}, error)

	// Close ends the session for the given reason once everything that was queued before has left,
	// or the write deadline has passed. It returns at once and may be called more than once; the
	// first reason counts. The transport calls Client.Closed when the session has ended.
	Close(reason Reason)
}

// Gate is what the packets of one sender on a wire pass until it has ended, for a [Socket] say. The nil
// gate is always open.
type Gate struct{ state atomic.Uint32 }

// Shut reports whether the sender has ended. That does not change again. A connection asks under the
// lock that orders its packets.
func (g *Gate) Shut() bool { return g != nil && g.state.Load() == stateGone }
