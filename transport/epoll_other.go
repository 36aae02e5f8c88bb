//go:build !linux

package transport

// poller is of Linux.
type poller struct{}

func (*poller) stop() {}

func newSessionOnEpoll() (*session, adopted) { return new(session), nil }

// adopt returns nil: there is no other carrier here.
func (*Handler) adopt(*session, *websocket) adopted { return nil }
