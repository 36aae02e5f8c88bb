package main

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"tether/clientjs"
	"tether/hub"
	"tether/token"
)

// site is the application around the hub: it knows passwords and sessions, and seals tokens.
type site struct {
	keys    *token.Keyring
	ttl     time.Duration
	emitter *hub.Emitter

	mu       sync.Mutex
	sessions map[string]string // user by session ID; guarded by mu
}

func (s *site) mount(mux *http.ServeMux) {
	guard := http.NewCrossOriginProtection()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.Handle("GET /socket.io.min.js", clientjs.Handler())
	mux.Handle("POST /login", guard.Handler(http.HandlerFunc(s.login)))
	mux.Handle("POST /logout", guard.Handler(http.HandlerFunc(s.logout)))
	mux.Handle("POST /socket-token", guard.Handler(http.HandlerFunc(s.socketToken)))
}

const sessionCookie = "session"

// login is whatever the application has; here it ends in a session cookie.
func (s *site) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	user, password := r.PostFormValue("user"), r.PostFormValue("password")
	known := user == "alice" || user == "bob"
	if subtle.ConstantTimeCompare([]byte(password), []byte("secret")) != 1 || !known {
		http.Error(w, "unknown user or wrong password", http.StatusUnauthorized)
		return
	}
	session := rand.Text()
	s.mu.Lock()
	s.sessions[session] = user
	s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: session, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: r.TLS != nil,
	})
	w.WriteHeader(http.StatusNoContent)
}

// logout ends the session, and with it the user's connections on all nodes.
func (s *site) logout(w http.ResponseWriter, r *http.Request) {
	user := s.userOf(r)
	if user == "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.mu.Lock()
	for session, u := range s.sessions {
		if u == user {
			delete(s.sessions, session)
		}
	}
	s.mu.Unlock()
	if changed, err := s.emitter.Disconnect(r.Context(), hub.User(user), true); err != nil || len(changed.Missing) > 0 {
		http.Error(w, "logged out, but connections may linger until their tokens expire", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// socketToken gives a logged-in user the token that the hub asks for. It lives for minutes: a page
// fetches a new one for every connection.
func (s *site) socketToken(w http.ResponseWriter, r *http.Request) {
	user := s.userOf(r)
	if user == "" {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	tok, err := s.keys.SealUser(user, s.ttl)
	if err != nil {
		http.Error(w, "no token", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"token": tok})
}

// userOf is the user whose session the request carries, or "".
func (s *site) userOf(r *http.Request) string {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[cookie.Value]
}
