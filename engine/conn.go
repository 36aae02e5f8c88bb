package engine

import (
	"math"
	"sync/atomic"
)

// Conn is the connection of one client: an Engine.IO session, whatever carries it at the moment. A
// transport implements it, and hands it to [Server.Attach].
type Conn interface {
	// ID is the Engine.IO session ID. It is a secret between this client and the server.
	ID() string

	// Transport names what carries the session now: "polling" or "websocket".
	Transport() string

	// Send queues p and returns at once. Packets leave in the order of the calls. A volatile packet
	// is dropped, without an error, when the connection is not ready to take it now. When the queue is
	// full the packet's policy decides: the packet or an older one is dropped, or the connection is
	// closed. The error is [ErrSlowConsumer] for a packet that was not taken. Send must not call the
	// receiver on the same goroutine. P may be lent: what is needed of it once Send has returned is
	// p.Keep().
	//
	// If from is shut when p is about to take its place in the order, p is not sent, and the error is
	// [ErrDisconnected]. So nothing passes a gate after what is sent once it is shut.
	Send(p *Packet, from *Gate) error

	// SendLogged is Send for a client that may come back after it has lost its connection: e is added to log
	// when it takes its place in the order, under the lock that orders the packets. The error is
	// ErrSlowConsumer only for a packet that was dropped while the connection goes on. After
	// ErrDisconnected, e is not in the log: the connection has ended, or ends because of e; or from is shut;
	// or the log belongs to another gate. When a pong of the client proves that it has what is in the log,
	// Mark and Confirm tell the log so.
	SendLogged(e *Entry, from *Gate, log *Log) error

	// Behind returns no channel when less than half of the queue is in use. Otherwise the channel is closed
	// once that is so again, or the session has ended. The error says that nothing is sent any more.
	Behind() (<-chan struct{}, error)

	// Close ends the session for the given reason once everything that was queued before has left,
	// or the write deadline has passed. It returns at once and may be called more than once; the
	// first reason counts. The transport calls Receiver.Closed when the session has ended.
	Close(reason Reason)
}

// Gate is what the packets of one sender pass until the sender has ended. The nil gate is always open. It
// carries the state of its sender, so that the gate shuts in the instant in which that changes.
type Gate struct{ state atomic.Uint32 }

// Ended is the state of a sender whose gate is shut. It is the last one. Others are numbers below it,
// and the sender's own business.
const Ended uint32 = math.MaxUint32

// State is the state of the sender. It begins with 0.
func (g *Gate) State() uint32 { return g.state.Load() }

// Set changes the state of the sender, which must not have ended.
func (g *Gate) Set(state uint32) { g.state.Store(state) }

// Shut reports whether the sender has ended. A connection asks under the lock that orders its packets.
func (g *Gate) Shut() bool { return g != nil && g.state.Load() == Ended }
