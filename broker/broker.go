// Package broker is the port between the nodes of a cluster: bytes on subjects, at most once.
//
// A driver implements [Broker]; broker/memory, broker/redis and broker/nats are the three that come
// with this module, and broker/brokertest is the suite that any other must pass. Nothing here knows
// what the bytes mean.
package broker

import (
	"context"
	"errors"
	"time"
)

// Errors that a driver returns, possibly wrapped with what it was doing.
var (
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("broker: closed")

	// ErrUnavailable says that the backend did not take the call in time: it is down, cut off, or
	// silent. A Publish that fails with it may or may not have reached the backend, and is never
	// repeated by the driver.
	ErrUnavailable = errors.New("broker: unavailable")

	// ErrTooLarge says that the message is larger than the backend carries. Other messages of the
	// same call are not affected.
	ErrTooLarge = errors.New("broker: message too large")
)

// Message is one message on one subject.
type Message struct {
	// Subject is any non-empty UTF-8 text. Subjects are equal or they are not; there are no
	// wildcards. A driver escapes, injectively, what its backend cannot carry.
	Subject string

	// Data is not modified after it is handed over, in either direction, and may be kept.
	Data []byte
}

// Gap is a time in which messages may have been missed by this node.
type Gap struct {
	From, To time.Time // From: the last moment that is known to be good
	Subjects []string  // nil: every subject that was subscribed in that time
	Cause    error
}

// Handler is what [Broker.Run] calls. Every function must return quickly and must not call the
// broker: on some backends the goroutine that calls is the one that would read the answer.
type Handler struct {
	// Deliver receives a message. It is called for one message of a subject at a time, in order;
	// messages of different subjects may be delivered at the same time.
	Deliver func(Message)

	// Lent is Deliver for a message that was lent, see [Lender]: its Data is gone when Lent returns. Nil:
	// Deliver, with a copy.
	Lent func(Message)

	// Gap is told of every time in which messages may have been missed, when it ends. Nil: ignored.
	Gap func(Gap)

	// State is told nil when messages make the round trip through the backend, and why not when
	// they cease to, at every change. Nil: ignored.
	State func(error)
}

// Broker carries messages between nodes: at most once, in order per publisher and subject, where a
// publisher is one Broker whose calls of Publish do not overlap. All methods may be called
// concurrently. A driver that was given the application's own client does not close that client.
type Broker interface {
	// Publish sends msgs in order, pipelined, and returns a Receipt for each, in the same order. It
	// needs no Run. Concurrent calls share pipelines. The error is ErrUnavailable, ErrTooLarge,
	// ErrClosed or the context's; with an error the receipts of the messages that the backend took
	// are still good, and those of the others are Unknown. A message is sent at most once. The slice
	// itself, but for what is in it, is the caller's again afterwards.
	//
	// A node is counted while it is subscribed, and no longer than about five seconds after it died,
	// froze or was cut off.
	Publish(ctx context.Context, msgs ...Message) ([]Receipt, error)

	// Subscribe returns once the subjects are live: a message published afterwards, by anyone, will
	// be delivered. It waits for Run to be running. Subscribing twice is subscribing once. On an
	// error none of the new subjects is subscribed, now or later.
	Subscribe(ctx context.Context, subjects ...string) error

	// Unsubscribe ends the subscriptions, and returns when all that this node was counted for has been
	// delivered, or lies in a gap. Subjects that are not subscribed are ignored. After an error they are
	// unsubscribed on this side all the same, and what was on its way is lost. Nothing of theirs is
	// delivered once the call has returned, unless somebody else has subscribed them meanwhile.
	Unsubscribe(ctx context.Context, subjects ...string) error

	// Run delivers until ctx is done, reconnecting and resubscribing as needed, and returns nil
	// then. A time in which messages may have been missed is reported, never hidden: a backend that
	// restarts, hangs, or falls silent is noticed within three seconds. What arrives too late to
	// have been counted (after a freeze, say) is not delivered and lies in a gap. Run may be called
	// once.
	Run(ctx context.Context, h Handler) error

	// Close frees what the driver opened. Calls in progress return ErrClosed, Run returns nil.
	Close() error
}

// Lender is a Broker that need not keep what it is given.
type Lender interface {
	Broker

	// Lend is Publish of messages whose Data is used again by the caller once Lend has returned, with an
	// error or without.
	Lend(ctx context.Context, msgs ...Message) ([]Receipt, error)
}
