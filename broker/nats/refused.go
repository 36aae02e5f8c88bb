package nats

import (
	"errors"
	"strings"
	"sync"

	natsio "github.com/nats-io/nats.go"
)

// refusals is what the server has said that it refuses, without being asked at that moment: it takes
// subscriptions away when its permissions are changed. The zero value is ready but for wake.
type refusals struct {
	wake chan struct{} // capacity 1; there is something to do

	mu      sync.Mutex
	rooms   map[string]error    // guarded by mu; subscriptions that may have ended, by wire subject
	control error               // guarded by mu; why one of our own subscriptions has ended; nil if none has
	silent  map[string]struct{} // guarded by mu; wire subjects on which we must not publish, not even questions
}

const maxSilent = 1 << 16 // wire subjects to remember

// onError is the listener of the link. What nobody waits for reaches us here.
func (b *Broker) onError(err error) {
	if !errors.Is(err, natsio.ErrPermissionViolation) {
		return
	}
	verb, subject := violation(err.Error())
	f := &b.refusals
	switch {
	case verb == "publish":
		if b.kept != nil {
			b.kept.denied(subject)
		}
		b.receipts.refuse(subject, refused("publish", natsio.ErrPermissionViolation))
		if b.names.isRoom(subject) {
			f.mu.Lock()
			if len(f.silent) >= maxSilent {
				clear(f.silent)
			}
			f.silent[subject] = struct{}{}
			f.mu.Unlock()
		}
		return
	case verb != "subscription":
		return
	case b.names.isRoom(subject):
		f.mu.Lock()
		f.rooms[subject] = err
		f.mu.Unlock()
	case strings.HasPrefix(subject, b.inbox) || b.names.isControl(subject):
		f.mu.Lock()
		f.control = err
		f.mu.Unlock()
	default:
		return // the application's
	}
	f.signal()
}

// signal has keep look, if there is something to do.
func (f *refusals) signal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rooms) == 0 && f.control == nil {
		return
	}
	signal(f.wake)
}

// again gives back what could not be found out.
func (f *refusals) again(rooms map[string]error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for wire, err := range rooms {
		f.rooms[wire] = err
	}
}

// violation takes apart what a server says: Permissions Violation for Subscription to "SUBJECT" ….
func violation(text string) (verb, subject string) {
	_, text, _ = strings.Cut(text, " for ")
	verb, text, _ = strings.Cut(text, ` to "`)
	subject, _, _ = strings.Cut(text, `"`)
	return strings.ToLower(verb), subject
}

// take returns what there is to do about.
func (f *refusals) take() (rooms map[string]error, control error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rooms, control = f.rooms, f.control
	f.rooms, f.control = make(map[string]error), nil
	return rooms, control
}

func (f *refusals) isSilent(wire string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, is := f.silent[wire]
	return is
}

// refusal returns why the server refuses something of what was sent since its last error was before, nil if
// it does not. nats.go keeps the last error only, and forgets it with the connection: that there is none is a
// proof, and behind any other a refusal may be hidden. Each error of a permission is a new one, unlike the rest.
func (b *Broker) refusal(before error) error {
	err := b.conn.LastError()
	isPermission := errors.Is(err, natsio.ErrPermissionViolation)
	switch {
	case err == nil, isPermission && err == before:
		return nil
	case isPermission:
		return natsio.ErrPermissionViolation
	case errors.Is(err, natsio.ErrMaxSubscriptionsExceeded):
		return natsio.ErrMaxSubscriptionsExceeded
	}
	return errHidden
}

var errHidden = errors.New("another error hides what the server refuses")
