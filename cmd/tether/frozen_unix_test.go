//go:build unix

package main

import (
	"syscall"
	"testing"

	"tether/internal/backend"
	"tether/internal/client"
)

// TestAFrozenNodeIsUnknown: NATS still has its subscription, and nobody acknowledges.
func TestAFrozenNodeIsUnknown(t *testing.T) {
	nats := backend.NATS(t)
	environ := []string{"TETHER_BROKER=" + nats.URL, "TETHER_PREFIX=" + t.Name()}
	p := start(t, append(environ, enough...)).ready()
	dialUser(t, client.Options{URL: p.url()}, "42")
	p.signal(syscall.SIGSTOP)
	if says, code := emitted(t, environ, "user:42", "x"); says != "the broker cannot tell" || code != exitUnknown {
		t.Errorf("got %q and %d", says, code)
	}
	if says, code := emitted(t, environ, "user:42", "x", "--json"); says != `{"nodes":null}` || code != exitUnknown {
		t.Errorf("got %q and %d", says, code)
	}
}
