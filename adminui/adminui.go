// Package adminui serves the official Admin UI of Socket.IO, the page of npm's @socket.io/admin-ui: its operators see the
// nodes of the cluster, and can disconnect clients.
//
//	ui, err := adminui.New(h, adminui.Options{Password: password})
//
// It is made before Run of the hub, which runs it too, on all nodes with the same options. The page itself is static files,
// which anybody may host; it connects to the namespace /admin as any client does, on any node.
//
// # What it costs
//
// While no page is connected to a node, that node asks nobody anything. With one, it asks all nodes every two seconds how
// they are, and tells its pages. In development mode it asks for the sockets too, up to Options.MaxSockets, and every
// event to a client is taken apart once more, for its name.
//
// # Development mode
//
// The page lists sockets with their rooms, and the names of the latest events. That is for clusters with few sockets: with more
// than Options.MaxSockets, the pages are told that there is no list, as in production mode, until there are fewer again.
// Pages get neither data of sockets, nor arguments of events, nor headers and parameters of requests.
package adminui

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"tether/cluster"
	"tether/hub"
)

// Options of a UI. Password is needed; any other field that is zero has its default.
type Options struct {
	// Username and Password let operators in. Default of Username: "admin".
	Username, Password string

	// Namespace is where pages connect. Default "/admin". It is a namespace of its own.
	Namespace string

	// Namespaces are those that pages show. Default "/".
	Namespaces []string

	// ReadOnly takes the commands away: to disconnect, to join and to leave.
	ReadOnly bool

	// Development has pages list sockets, rooms and the names of events.
	Development bool

	// MaxSockets is how many sockets the whole cluster may have in all of these namespaces for pages to list them.
	// Default and maximum 1000.
	MaxSockets int

	// Engine reads the figures of the transport. Nil: pages have none.
	Engine func() Engine

	// Logger gets what operators do. Default: slog.Default().
	Logger *slog.Logger
}

// Engine are figures of a transport, since its start.
type Engine struct {
	Opened, Closed    uint64 // connections
	BytesIn, BytesOut uint64
}

// MostSockets is the maximum of Options.MaxSockets.
const MostSockets = 1000

// every is how often pages are told. They call a server ill of which they hear nothing for ten seconds.
const every = 2 * time.Second

// Events are those that pages are emitted, for hub.Options.Events if that lists what may be emitted.
func Events() []string {
	return []string{"session", "config", "server_stats", "all_sockets", "socket_connected", "socket_updated",
		"socket_disconnected", "room_joined", "room_left", "event_received", "event_sent"}
}

// UI is one node's part.
type UI struct {
	o         Options // immutable, with defaults
	hub       *hub.Hub
	emitter   *hub.Emitter
	node      *cluster.Node
	namespace *hub.Namespace        // of the pages
	guard     atomic.Pointer[guard] // replaced as a whole by SetPassword
	log       *slog.Logger
	hostname  string
	started   time.Time
	notes     notes // in development mode
}

var errNoPassword = errors.New("adminui: Password is needed: pages can disconnect clients")

// New returns the UI of a hub.
func New(h *hub.Hub, o Options) (*UI, error) {
	o.Username = cmp.Or(o.Username, "admin")
	o.Namespace = cmp.Or(o.Namespace, "/admin")
	o.MaxSockets = cmp.Or(o.MaxSockets, MostSockets)
	if len(o.Namespaces) == 0 {
		o.Namespaces = []string{"/"}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case o.Password == "":
		return nil, errNoPassword
	case slices.Contains(o.Namespaces, o.Namespace):
		return nil, fmt.Errorf("adminui: Options.Namespace is %q, which is among Options.Namespaces: clients would need the password", o.Namespace)
	case o.MaxSockets < 0 || o.MaxSockets > MostSockets:
		return nil, fmt.Errorf("adminui: Options.MaxSockets is %d: 1 to %d is right", o.MaxSockets, MostSockets)
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("adminui: %w", err)
	}
	u := &UI{
		o: o, hub: h, emitter: h.Emitter(), node: h.Emitter().Cluster(), namespace: h.Of(o.Namespace),
		log: o.Logger.With("node", h.Node()), hostname: hostname, started: time.Now(),
	}
	u.guard.Store(newGuard(o.Username, o.Password))
	u.namespace.OnConnect(u.connect)
	if !o.ReadOnly {
		u.namespace.On("join", u.join)
		u.namespace.On("leave", u.leave)
		u.namespace.On("_disconnect", u.disconnect)
	}
	h.Of("/").OnServerSide(askFigures, u.answer)
	if o.Development {
		for _, name := range o.Namespaces {
			u.notes.watch(h.Of(name))
		}
	}
	u.node.Attach(u)
	return u, nil
}

// all are the namespaces that pages show: their own is one of them.
func (u *UI) all() []string { return append(slices.Clone(u.o.Namespaces), u.o.Namespace) }

// connect lets a page in.
func (u *UI) connect(_ context.Context, s *hub.Socket) error {
	var sent struct{ Username, Password, SessionID string }
	if auth := s.Handshake().Auth; auth != nil {
		if err := json.Unmarshal(auth, &sent); err != nil {
			return errInvalid()
		}
	}
	now, g := time.Now(), u.guard.Load()
	s.SetData(g)
	if !g.isSession(sent.SessionID, now) {
		if !g.isOperator(sent.Username, sent.Password) {
			return errInvalid()
		}
		if err := s.Emit("session", g.session(now)); err != nil {
			return err
		}
	}
	u.log.Info("an operator has connected with the Admin UI", "socket", s.ID(), "address", s.Handshake().Address)
	return s.Emit("config", u.config(false))
}

// SetPassword changes the password. Sessions of the old one end, and pages of this node that are open with it are
// disconnected: one that is just coming in, two seconds later. Call it on all nodes.
func (u *UI) SetPassword(password string) error {
	if password == "" {
		return errNoPassword
	}
	u.guard.Store(newGuard(u.o.Username, password))
	u.putOut()
	return nil
}

// putOut disconnects pages that were let in with another password. Data of a page that came back from another node is no
// guard: it has been let in again.
func (u *UI) putOut() {
	now := u.guard.Load()
	for s := range u.namespace.Sockets() {
		if g, ok := s.Data().(*guard); ok && g != now && !g.same(now) {
			s.Disconnect(false)
		}
	}
}

// errInvalid has the words that the page knows.
func errInvalid() error { return hub.Refuse("invalid credentials", nil) }

// config says what pages can do. They list sockets if they are told of ALL_EVENTS.
func (u *UI) config(lists bool) map[string][]string {
	features := []string{"AGGREGATED_EVENTS"}
	if !u.o.ReadOnly {
		features = append(features, "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT")
	}
	if lists {
		features = append(features, "ALL_EVENTS")
	}
	return map[string][]string{"supportedFeatures": features}
}
