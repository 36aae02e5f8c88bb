// Package broker is the port between the nodes of a cluster: bytes on subjects, at most once.
//
// A driver implements [Broker]; broker/memory, broker/redis and broker/nats are the three that come
// with this module, and broker/brokertest is the suite that any other must pass. Nothing here knows
// what the bytes mean.
package broker

import (
	"bytes"
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

	// ErrPart says, of a state, that a part of the subjects is not served, while others are.
	ErrPart = errors.New("broker: a part of the subjects is not served")

	// ErrTooLarge says that the message is larger than the backend carries. Other messages of the
	// same call are not affected.
	ErrTooLarge = errors.New("broker: message too large")

	// ErrRefused says that the backend refuses this subject or message for now: a permission, a limit, its
	// memory. Other subjects and messages of the same call are not affected.
	ErrRefused = errors.New("broker: refused")
)

// Message is one message on one subject.
type Message struct {
	// Subject is any non-empty UTF-8 text. Subjects are equal or they are not; there are no
	// wildcards. A driver escapes, injectively, what its backend cannot carry.
	Subject string

	// Data is not modified after it is handed over, in either direction, and may be kept, unless it is lent.
	Data []byte

	// Lent says that the memory of Data is used again: by the caller once Publish has returned, by the
	// driver once Deliver has returned. Code that keeps the message calls Own.
	Lent bool

	// Log is what the message is added to when it is published by a [Logger] with a log: any text. "": nothing. It is
	// not delivered.
	Log string

	// Place is where the message stands among all others of a [Logger]. A publisher asks for one with any number but 0,
	// and has to if there is a Log. Without a log it is 0 on delivery.
	Place uint64

	// Trace is for other programs at the backend: a driver whose backend has headers sends it there, and others ignore
	// it. Nil, which costs nothing: there is none. It is not delivered.
	Trace *Trace
}

// Trace is a place in a trace, in the words of W3C Trace Context.
type Trace struct {
	Parent string // traceparent
	State  string // tracestate. "": there is none
}

// Own returns the message with Data that may be kept: a copy, if it is lent.
func (m Message) Own() Message {
	if m.Lent {
		m.Data, m.Lent = bytes.Clone(m.Data), false
	}
	return m
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

	// Gap is told of every time in which messages may have been missed, when it ends. Nil: ignored.
	Gap func(Gap)

	// Lost is told of subjects that the backend has ended, or refused to restore, after Subscribe had
	// returned. They are not subscribed any more, and the driver does not try again: the caller of
	// Subscribe does, and reports the gap. Gap.From is the last moment that is known to be good; To is
	// zero. Nil: ignored.
	Lost func(Gap)

	// State is told nil when messages make the round trip through the backend, and why not when
	// they cease to, at every change; the error is an ErrPart while some of them do. Nil: ignored.
	State func(error)
}

// Broker carries messages between nodes: at most once, in order per publisher and subject, where a
// publisher is one Broker whose calls of Publish do not overlap. Publish and Close may be called
// concurrently, with each other and with all else. Subscribe and Unsubscribe have one caller: none of
// their calls begins before the last one has returned. A driver that was given the application's own
// client does not close that client.
type Broker interface {
	// Publish sends msgs in order, pipelined, and returns a Receipt for each, in the same order. It
	// needs no Run. Concurrent calls share pipelines. The error is ErrUnavailable, ErrTooLarge,
	// ErrClosed or the context's; with an error the receipts of the messages that the backend took
	// are still good, and those of the others are Unknown. A message is sent at most once. The slice
	// itself, but for what is in it, is the caller's again afterwards.
	//
	// A node is counted while it is subscribed, and no longer than about five seconds after it died,
	// froze or was cut off. A backend that counts acknowledgements answers Unknown within about a second
	// if none comes from a node that may have the message; a zero is certain everywhere.
	Publish(ctx context.Context, msgs ...Message) ([]Receipt, error)

	// Subscribe returns nil once all subjects are live: a message published afterwards, by anyone, will
	// be delivered. Otherwise it returns an error for each subject, nil for those that are live; the
	// others are not subscribed, now or later. What is wrong with one part of the backend fails only the
	// subjects of that part, with ErrUnavailable, and at once if it is known to be away. A subject that
	// the backend refuses fails with ErrRefused. Subscribe waits for Run to be running. Subscribing twice
	// is subscribing once.
	Subscribe(ctx context.Context, subjects ...string) []error

	// Unsubscribe ends the subscriptions, and returns when all that this node was counted for has been
	// delivered, or lies in a gap: nil, or an error for each subject, nil for those without one. Subjects
	// that are not subscribed are ignored. After an error a subject is unsubscribed on this side all the
	// same, and what was on its way is lost. Nothing of theirs is delivered once the call has returned.
	Unsubscribe(ctx context.Context, subjects ...string) []error

	// Run delivers until ctx is done, reconnecting and resubscribing as needed, and returns nil
	// then. A time in which messages may have been missed is reported, never hidden: a backend that
	// restarts, hangs, or falls silent is noticed within three seconds. What arrives too late to
	// have been counted (after a freeze, say) is not delivered and lies in a gap. Run may be called
	// once.
	Run(ctx context.Context, h Handler) error

	// Close frees what the driver opened. Calls in progress return ErrClosed, Run returns nil. An Unsubscribe
	// may return nil as well: nothing is subscribed any more.
	Close() error
}

// Each returns err for each of n subjects, nil if err is nil: the answer of a Subscribe or an Unsubscribe
// in which all subjects share their fate.
func Each(n int, err error) []error {
	if err == nil {
		return nil
	}
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
