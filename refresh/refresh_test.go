package refresh_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
	"tether/refresh"
	"tether/revoke"
	"tether/token"
)

func TestWhatItDependsOn(t *testing.T) {
	deptest.Only(t, "tether/refresh", "tether/hub", "tether/revoke", "tether/token", "tether/cluster", "tether/engine",
		"tether/broker", "tether/internal/socketio", "tether/internal/group", "tether/internal/budget", "tether/internal/wire")
}

const life = 10 * time.Minute

// rig is a cluster whose clients show tokens.
type rig struct {
	t       *testing.T
	cluster *hubtest.Cluster
	keys    *token.Keyring
	lists   map[*hubtest.Node]*revoke.List
	tokens  map[*hubtest.Node]*refresh.Refresher
	broken  bool // tokens cannot be checked
}

func newRig(t *testing.T) *rig {
	key, err := token.NewKey(token.GenerateKey())
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, cluster: hubtest.NewCluster(t), keys: token.NewKeyring(key),
		lists: make(map[*hubtest.Node]*revoke.List), tokens: make(map[*hubtest.Node]*refresh.Refresher)}
}

func (r *rig) seal(user string, ttl time.Duration) string {
	tok, err := r.keys.SealUser(user, ttl)
	if err != nil {
		r.t.Fatal(err)
	}
	return tok
}

func (r *rig) auth(user string) map[string]any {
	return map[string]any{"token": r.seal(user, life), "recovery": true}
}

func (r *rig) open(_ context.Context, tok string) (refresh.Token, error) {
	if r.broken {
		return refresh.Token{}, errors.New("the key server is away")
	}
	id, err := r.keys.OpenUser(tok)
	return refresh.Token{Token: revoke.Token{User: hub.User(id.User), ID: id.ID, Issued: id.Issued}, Expires: id.Expires}, err
}

// node runs a node whose clients are told a minute before their tokens expire.
func (r *rig) node() *hubtest.Node {
	var list *revoke.List
	var tokens *refresh.Refresher
	n := r.cluster.Node(func(b broker.Broker) (*hub.Hub, error) {
		log := slog.New(slog.DiscardHandler)
		h, err := hub.New(b, hub.Options{ExpiryNotice: time.Minute, Recovery: hub.Recovery{On: true, Window: time.Hour}, Logger: log})
		if err != nil {
			return nil, err
		}
		if list, err = revoke.New(h, revoke.Options{Logger: log}); err != nil {
			return nil, err
		}
		if tokens, err = refresh.New(h, refresh.Options{Open: r.open, List: list, Logger: log}); err != nil {
			return nil, err
		}
		h.Of("/").On(refresh.Event, tokens.Handle)
		h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
			var auth struct{ Token string }
			if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
				return err
			}
			t, err := r.open(ctx, auth.Token)
			if err != nil {
				return hub.Refuse("unauthorized", nil)
			}
			s.ExpireAt(t.Expires)
			if err := s.Join(ctx, hub.Room("news")); err != nil {
				return err
			}
			return list.Register(ctx, s, t.Token)
		})
		return h, nil
	})
	r.lists[n], r.tokens[n] = list, tokens
	return n
}

// expires says in how many seconds a client is to be gone.
type expires struct {
	ExpiresIn int `json:"expiresIn"`
}

const notice = "/ops/token-expires"

func TestANewTokenExtendsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := r.node()
		c := n.Connect(r.auth("alice"))
		id := c.ID()
		c.Expect("/ops/connection-success")
		for range 3 {
			time.Sleep(life - time.Minute - time.Second)
			c.Refute(notice)
			time.Sleep(2 * time.Second)
			if _, err := n.Hub.Emitter().Emit(t.Context(), hub.Room("news"), "before"); err != nil {
				t.Fatal(err)
			}
			c.Call(refresh.Event, r.seal("alice", life)).Expect(expires{600})
			c.Next().Decode(0, &struct{ ExpiresIn int }{})
			c.Expect("before")
		}
		c.RefuteAny() // no second greeting, nothing twice
		if c.ID() != id || n.Hub.Stats().Expired != 0 || n.Hub.Stats().Connections != 1 {
			t.Errorf("the connection is another one: %+v", n.Hub.Stats())
		}
		time.Sleep(life - time.Second)
		c.Expect(notice, expires{60})
		time.Sleep(2 * time.Second)
		c.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

func TestATokenThatDoesNotExpireEndsTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		c := r.node().Connect(r.auth("alice"))
		c.Expect("/ops/connection-success")
		c.Call(refresh.Event, r.seal("alice", 0)).Expect(nil)
		time.Sleep(24 * time.Hour)
		c.RefuteAny()
	})
}

func TestABadTokenCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := r.node()
		c := n.Connect(r.auth("alice"))
		c.Expect("/ops/connection-success")
		old := r.seal("alice", time.Second)
		time.Sleep(2 * time.Second)
		good := r.seal("alice", life)
		for _, bad := range []struct {
			what string
			args []any
			says string
		}{
			{"nothing", nil, "send the new token as the first argument, a text"},
			{"no text", []any{map[string]string{"token": good}}, "send the new token as the first argument, a text"},
			{"an empty text", []any{""}, "send the new token as the first argument, a text"},
			{"no token", []any{"x"}, "the token is not valid"},
			{"a token that was cut", []any{good[:len(good)-8]}, "the token is not valid"},
			{"a token of another key", []any{newRig(t).seal("alice", life)}, "the token is not valid"},
			{"an old token", []any{old}, "the token has expired"},
			{"somebody else's", []any{r.seal("bob", life)}, "the token is not of the user of this connection"},
		} {
			t.Log(bad.what)
			c.Call(refresh.Event, bad.args...).ExpectRefusal(bad.says)
		}
		r.broken = true
		c.Call(refresh.Event, good).ExpectRefusal("the token could not be checked: try again")
		r.broken = false
		c.RefuteAny()
		time.Sleep(life - 30*time.Second) // the time of the first token is what counts
		c.Expect(notice)
		time.Sleep(30 * time.Second)
		c.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

func TestASocketWithoutAUserGetsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := r.node()
		n.Hub.Of("/open").On(refresh.Event, r.tokens[n].Handle)
		c := n.Dial(hubtest.Handshake{Namespace: "/open"})
		c.Call(refresh.Event, r.seal("alice", life)).ExpectRefusal("the token is not of the user of this connection")
	})
}

func TestRulesAreAboutTheNewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := r.node()
		first, second := r.seal("alice", life), r.seal("alice", life)
		c := n.Connect(map[string]string{"token": first})
		c.Call(refresh.Event, second).Expect(expires{600})
		revoked := func(tok string) {
			id, err := r.keys.OpenUser(tok)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.lists[n].Revoke(t.Context(), revoke.Rule{Token: id.ID}); err != nil {
				t.Fatal(err)
			}
		}
		revoked(first)
		c.Call(refresh.Event, first).ExpectRefusal("revoked")
		c.Call(refresh.Event, second).Expect(expires{600})
		revoked(second)
		c.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

// TestAClientComesBackWithANewToken has the old one expire while the client is away.
func TestAClientComesBackWithANewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n, other := r.node(), r.node()
		auth := r.auth("alice")
		c := n.Connect(auth)
		c.Expect("/ops/connection-success")
		c.Close()
		time.Sleep(life + time.Minute)
		if _, err := other.Hub.Emitter().Emit(t.Context(), hub.User("alice"), "missed", 1); err != nil {
			t.Fatal(err)
		}
		auth["token"] = r.seal("alice", life)
		if !c.ComeBack(other) {
			t.Error("the session has ended with its first token")
		}
		c.Expect("missed", 1)
		c.RefuteAny()
		c.Call(refresh.Event, r.seal("alice", life)).Expect(expires{600})
		time.Sleep(life + time.Second)
		c.ExpectEnd(hub.ReasonServerDisconnect)
		if expired := other.Hub.Stats().Expired; expired != 1 {
			t.Errorf("%d sockets have expired", expired)
		}
	})
}

func TestASocketIsFoundOnAnyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		nodes := []*hubtest.Node{r.node(), r.node(), r.node()}
		c := nodes[0].Connect(r.auth("alice"))
		moved := nodes[0].Connect(r.auth("bob"))
		if !moved.ComeBack(nodes[1]) {
			t.Fatal("the session has not moved")
		}
		time.Sleep(life / 2)
		want := func(id, tok string, wants error) {
			t.Helper()
			for i, n := range nodes {
				until, err := r.tokens[n].Refresh(t.Context(), id, tok)
				if !errors.Is(err, wants) || err == nil && time.Until(until).Round(2*time.Second) != life {
					t.Errorf("node %d: %v, %v, want %v", i, until, err, wants)
				}
			}
		}
		alice, bob := r.seal("alice", life), r.seal("bob", life)
		want(c.ID(), bob, refresh.ErrForeign)
		want(c.ID(), "x", refresh.ErrInvalid)
		want("x", alice, refresh.ErrNoSocket)
		gone := nodes[0].Connect(r.auth("alice"))
		gone.Close()
		want(gone.ID(), alice, refresh.ErrNoSocket)
		want(c.ID(), r.seal("alice", life), nil)
		want(moved.ID(), r.seal("bob", life), nil)
		time.Sleep(life - 2*time.Second)
		c.Expect(notice)
		moved.Expect(notice)
		time.Sleep(3 * time.Second)
		c.ExpectEnd(hub.ReasonServerDisconnect)
		moved.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

func TestANodeThatDoesNotAnswerMayHaveTheSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n, other := r.node(), r.node()
		c := n.Connect(r.auth("alice"))
		n.Silence()
		_, err := r.tokens[other].Refresh(t.Context(), c.ID(), r.seal("alice", life))
		if err == nil || errors.Is(err, refresh.ErrNoSocket) || errors.As(err, new(*hub.Refusal)) {
			t.Errorf("got %v: that is not known", err)
		}
	})
}

func TestARefresherOpensTokens(t *testing.T) {
	if _, err := refresh.New(nil, refresh.Options{}); err == nil {
		t.Error("a refresher without Open")
	}
}
