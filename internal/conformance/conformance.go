// Package conformance gives a hub fixed behaviours, so that any Socket.IO client, and any test from
// outside, can exercise it. examples/conformance serves them.
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"sync"
	"time"

	"tether/hub"
	"tether/revoke"
	"tether/token"
)

// Options of Install. The zero value is ready to use.
type Options struct {
	// Keys open the tokens of clients. Nil: tokens are not looked at.
	Keys *token.Keyring

	// List has what was revoked. Nil: nothing is.
	List *revoke.List
}

var dynamic = regexp.MustCompile(`^/dyn-\d+$`)

// Install gives h the namespaces "/", "/custom", "/auth" and "/dyn-" with digits.
func Install(h *hub.Hub, o Options) {
	root := h.Of("/")
	root.OnConnect(func(ctx context.Context, s *hub.Socket) error {
		began := time.Now()
		if err := admit(ctx, s, o); err != nil {
			if errors.As(err, new(*hub.Refusal)) {
				token.PadTime(ctx, began)
			}
			return err
		}
		if s.Recovered() {
			return nil
		}
		s.SetData(new(asks))
		return s.Emit("welcome", welcome{s.ID(), authOf(s), h.Node()})
	})
	root.OnDisconnect(func(s *hub.Socket, _ hub.Reason) {
		if a, ok := s.Data().(*asks); ok {
			a.open.Wait()
		}
	})
	installEvents(root)
	installRooms(root)
	installCluster(h, root)

	custom := h.Of("/custom")
	custom.OnConnect(func(_ context.Context, s *hub.Socket) error { return s.Emit("hello", "custom") })
	custom.On("echo", echo)

	h.Of("/auth").OnConnect(func(_ context.Context, s *hub.Socket) error {
		var auth struct {
			Token any `json:"token"`
		}
		if json.Unmarshal(s.Handshake().Auth, &auth) != nil || auth.Token != "secret" {
			return hub.Refuse("not authorized", map[string]int{"code": 401})
		}
		return s.Emit("whoami", auth.Token)
	})

	h.Match(dynamic.MatchString).OnConnect(func(_ context.Context, s *hub.Socket) error {
		return s.Emit("nsp", s.Namespace().Name())
	})
}

// suiteGap is what passes between the answer to CONNECT and the event behind it, in a test suite: the official
// ones wait for one message after the other, and their WebSocket library hands over all of one read at once, so
// that the second would be lost.
const suiteGap = 5 * time.Millisecond

// InstallSuite gives h the behaviours that a protocol test suite expects, and no others.
func InstallSuite(h *hub.Hub) {
	for _, ns := range []*hub.Namespace{h.Of("/"), h.Of("/custom")} {
		ns.OnConnect(func(_ context.Context, s *hub.Socket) error {
			greeting := new(sync.WaitGroup)
			s.SetData(greeting)
			greeting.Go(func() { // OnDisconnect waits
				time.Sleep(suiteGap)
				s.Emit("auth", authOf(s))
			})
			return nil
		})
		ns.OnDisconnect(func(s *hub.Socket, _ hub.Reason) { s.Data().(*sync.WaitGroup).Wait() })
	}
	root := h.Of("/")
	root.On("message", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		return s.Emit("message-back", m.Args()...)
	})
	root.On("message-with-ack", func(_ context.Context, _ *hub.Socket, m *hub.Message) error {
		return m.Ack(m.Args()...)
	})
}

type welcome struct {
	ID   string          `json:"id"`
	Auth json.RawMessage `json:"auth"`
	Node string          `json:"node"`
}

// authOf is the payload of the CONNECT packet, {} if there was none.
func authOf(s *hub.Socket) json.RawMessage {
	if auth := s.Handshake().Auth; len(auth) > 0 {
		return auth
	}
	return json.RawMessage("{}")
}

// admit registers the socket for the user of its token. Without keys or without a token it is nobody.
func admit(ctx context.Context, s *hub.Socket, o Options) error {
	if o.Keys == nil {
		return nil
	}
	var auth struct {
		Token json.RawMessage `json:"token"`
	}
	if err := json.Unmarshal(authOf(s), &auth); err != nil || len(auth.Token) == 0 || string(auth.Token) == "null" {
		s.Leave(s.Users()...) // one that has come back has those of its session
		return nil
	}
	var tok string
	if json.Unmarshal(auth.Token, &tok) != nil {
		return hub.Refuse("unauthorized", nil)
	}
	id, err := o.Keys.OpenUser(tok)
	if err != nil {
		return hub.Refuse("unauthorized", nil)
	}
	if !id.Expires.IsZero() {
		s.ExpireAt(id.Expires)
	}
	if o.List == nil {
		return s.Register(ctx, id.User)
	}
	err = o.List.Register(ctx, s, revoke.Token{User: hub.User(id.User), ID: id.ID, Issued: id.Issued})
	if errors.Is(err, revoke.ErrRevoked) {
		return hub.Refuse("unauthorized", nil)
	}
	return err
}
