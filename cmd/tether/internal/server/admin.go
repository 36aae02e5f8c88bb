package server

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"tether/hub"
)

// admin is the page for operators, on an address of its own, and what it asks. There is nothing in it that any
// program with the library could not ask.
type admin struct {
	server *Server

	mu   sync.Mutex // held while the nodes are asked, so that several pages ask once
	view *ClusterView
	text []byte
}

//go:embed admin
var adminFiles embed.FS

const (
	adminTime = 10 * time.Second // that a question of the page may take
	adminBody = 64 << 10         // bytes of a request
	maxFound  = 500              // sockets that the page shows
	viewFresh = time.Second      // for which all pages get the same
)

// handler is everything that the admin address serves.
func (a *admin) handler() http.Handler {
	files, err := fs.Sub(adminFiles, "admin")
	if err != nil {
		panic(err) // it is embedded
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.Handle("GET /metrics", a.server.api.metrics)
	mux.HandleFunc("GET /api/cluster", a.serveCluster)
	mux.HandleFunc("POST /api/find", a.action(a.find))
	mux.HandleFunc("POST /api/kick", a.action(a.kick))
	mux.HandleFunc("POST /api/follow", a.action(a.follow))
	mux.HandleFunc("POST /api/followed", a.action(a.followed))
	mux.HandleFunc("POST /api/drain", a.action(a.drain))
	return a.guard(http.NewCrossOriginProtection().Handler(mux))
}

// guard lets nobody in without a key. Where there is none, it lets those in that come to this host by its own name: a page that
// has its own name point here would be of another origin otherwise, and read everything.
func (a *admin) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		keys := *a.server.adminKeys.Load()
		switch {
		case len(keys) == 0 && !isLocal(r.Host):
			http.Error(w, "without admin.keys this page is for http://localhost and http://127.0.0.1 only", http.StatusForbidden)
		case len(keys) > 0 && !opens(keys, r):
			h.Set("WWW-Authenticate", `Basic realm="tether", charset="UTF-8"`)
			http.Error(w, "one of admin.keys is needed: as a password, with any name, or as Authorization: Bearer KEY", http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isLocal reports whether a Host header names this host by a name that nobody else can give out.
func isLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// opens reports whether a request has one of the keys.
func opens(keys []keyHash, r *http.Request) bool {
	if _, password, ok := r.BasicAuth(); ok {
		return isOneOf(keys, password)
	}
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return isOneOf(keys, strings.TrimSpace(key)) && strings.EqualFold(scheme, "Bearer")
}

// serveCluster answers with all nodes.
func (a *admin) serveCluster(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.view == nil || time.Since(a.view.At) > viewFresh {
		a.view = a.server.view(context.WithoutCancel(r.Context())) // it ends in time; others want it too
		a.text, _ = json.Marshal(a.view)                           // texts and numbers
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(a.text)
}

// action is a request with a JSON body, and its answer.
func (a *admin) action(do func(ctx context.Context, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") { // no form can send it
			writeJSON(w, http.StatusUnsupportedMediaType, map[string]string{"error": "the Content-Type is application/json"})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, adminBody))
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": "the body did not arrive, or is too large"})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), adminTime)
		defer cancel()
		out, err := do(ctx, body)
		if err != nil {
			writeJSON(w, statusOf(err), map[string]string{"error": messageOf(err)})
			return
		}
		writeJSON(w, http.StatusOK, out)
	}
}

// adminSocket is a socket as the page shows it.
type adminSocket struct {
	ID         string   `json:"id"`
	Namespace  string   `json:"namespace"`
	Node       string   `json:"node"`
	Tag        string   `json:"tag"`
	Connection string   `json:"connection"`
	Transport  string   `json:"transport"`
	Address    string   `json:"address"`
	Since      string   `json:"since"`
	Rooms      []string `json:"rooms"`
	Queued     int      `json:"queued"` // bytes; 0: less than 4 KiB, or not among the longest queues of its node
}

// find finds the sockets of a user, of a room, of everyone, one socket, or those of a connection.
func (a *admin) find(ctx context.Context, body []byte) (any, error) {
	var in struct {
		target
		Connection string `json:"connection"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	in.Everyone = in.Everyone || in.Connection != "" // all are asked, and the others left out
	e, to, err := a.server.api.targeted(in.target)
	if err != nil {
		return nil, err
	}
	out := struct {
		Sockets []adminSocket `json:"sockets"`
		More    bool          `json:"more"`
		Missing []Missing     `json:"missing"`
	}{Sockets: []adminSocket{}}
	found := e.FetchSockets(ctx, to, hub.FetchOptions{Rooms: true, Handshake: true})
	for s := range found.All {
		if in.Connection != "" && s.Connection != in.Connection {
			continue
		}
		if len(out.Sockets) == maxFound {
			out.More = true
			break
		}
		one := adminSocket{ID: s.ID, Namespace: s.Namespace, Node: s.Node.Name, Tag: s.Node.Tag,
			Connection: s.Connection, Transport: s.Transport, Rooms: []string{}}
		if s.Handshake != nil {
			one.Address, one.Since = s.Handshake.Address, s.Handshake.Time.UTC().Format(time.RFC3339)
		}
		for _, r := range s.Rooms {
			if r != hub.SocketID(s.ID) {
				one.Rooms = append(one.Rooms, r.String())
			}
		}
		out.Sockets = append(out.Sockets, one)
	}
	out.Missing = MissingOf(found.Missing())
	a.queues(ctx, out.Sockets)
	return out, found.Err()
}

// queues fills in what waits for the sockets.
func (a *admin) queues(ctx context.Context, sockets []adminSocket) {
	if len(sockets) == 0 {
		return
	}
	waits := map[string]int{}
	for _, n := range a.server.view(ctx).Nodes {
		if n.Status != nil {
			for _, c := range n.Status.Slowest {
				waits[c.Connection] = c.Bytes
			}
		}
	}
	for i := range sockets {
		sockets[i].Queued = waits[sockets[i].Connection]
	}
}

// kick disconnects sockets.
func (a *admin) kick(ctx context.Context, body []byte) (any, error) {
	out, err := a.server.api.disconnect(ctx, body)
	if err == nil {
		a.server.log.Info("an operator has disconnected clients", "request", string(body[:min(len(body), 256)]))
	}
	return out, err
}

// drain has a node drain and end.
func (a *admin) drain(ctx context.Context, body []byte) (any, error) {
	var in struct {
		Node string `json:"node"` // its tag
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if in.Node == "" {
		return nil, badRequest(errors.New(`"node" is needed, the tag of a node`))
	}
	if a.server.drain(in.Node) {
		return map[string]bool{"draining": true}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	answers := a.server.hub.Emitter().ServerSideEmitAck(ctx, askDrain, in.Node)
	for n := range answers.All {
		if string(n.Value) == "true" {
			return map[string]bool{"draining": true}, nil
		}
	}
	if err := answers.Err(); err != nil {
		return nil, err
	}
	return nil, badRequest(fmt.Errorf("no node with the tag %.16q drains: it is gone, does not answer, or has no admin.addr", in.Node))
}
