package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/hub"
	"tether/transport"
)

// serving is a hub behind [transport.Handler.Serve], until its context ends.
type serving struct {
	t      *testing.T
	url    string
	ln     net.Listener
	mux    *http.ServeMux // routes may be added
	log    bytes.Buffer   // to be read after the end
	cancel context.CancelFunc
	ended  chan error
}

func serveHub(t *testing.T, ho hub.Options, o transport.ServeOptions) *serving {
	t.Helper()
	b := memory.NewBus().Broker()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &serving{t: t, url: "http://" + ln.Addr().String(), ln: ln, mux: http.NewServeMux(), ended: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	ho.Logger = log
	live := make(chan struct{})
	if ho.OnStart == nil {
		ho.OnStart = func(context.Context, *hub.Hub) error { close(live); return nil }
	} else {
		close(live)
	}
	h, err := hub.New(b, ho)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := transport.NewHandler(h, transport.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	s.mux.Handle("/socket.io/", sockets)
	ctx, cancel := context.WithCancel(t.Context())
	s.cancel = cancel
	go func() { s.ended <- sockets.Serve(ctx, ln, s.mux, h, o) }() // until cancel; end receives
	t.Cleanup(func() {
		cancel()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	<-live
	return s
}

// end waits for the end and returns the error of Serve.
func (s *serving) end() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(30 * time.Second):
		s.t.Fatal("Serve does not return")
		return nil
	}
}

// get returns the status and the body of an answer.
func (s *serving) get(client *http.Client, path string) (int, string) {
	s.t.Helper()
	res, err := client.Get(s.url + path)
	if err != nil {
		s.t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Error(err)
	}
	return res.StatusCode, string(body)
}

// ask is get for a caller that is to know when the request has been sent.
func (s *serving) ask(path string, sent func()) string {
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent() }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(s.t.Context(), trace), http.MethodGet, s.url+path, nil)
	if err != nil {
		return err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(res.StatusCode, " ", string(body))
}

// open opens a polling session in the namespace "/" and returns its path.
func (s *serving) open() string {
	s.t.Helper()
	const path = "/socket.io/?EIO=4&transport=polling"
	_, body := s.get(http.DefaultClient, path)
	_, rest, _ := strings.Cut(body, `"sid":"`)
	sid, _, _ := strings.Cut(rest, `"`)
	res, err := http.Post(s.url+path+"&sid="+sid, "text/plain", strings.NewReader("40"))
	if err != nil {
		s.t.Fatal(err)
	}
	res.Body.Close()
	if _, body := s.get(http.DefaultClient, path+"&sid="+sid); !strings.HasPrefix(body, "40{") {
		s.t.Fatalf("CONNECT was answered with %q", body)
	}
	return path + "&sid=" + sid
}

func TestServeSendsTheClientsAwayAndFinishesRequests(t *testing.T) {
	s := serveHub(t, hub.Options{DrainWindow: -1}, transport.ServeOptions{})
	session := s.open()
	begun, proceed := make(chan struct{}), make(chan struct{})
	s.mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-proceed
		io.WriteString(w, "done")
	})
	slow := make(chan string, 1)
	go func() { // ends with the request; received below
		_, body := s.get(http.DefaultClient, "/slow")
		slow <- body
	}()
	<-begun
	asked, told := make(chan struct{}), make(chan string, 1)
	go func() { // ends with the request; received below
		told <- s.ask(session, func() { close(asked) })
	}()
	<-asked // a client is waited for, but not for long
	s.cancel()
	if got := <-told; got != "200 1" {
		t.Errorf("the client was told %q", got)
	}
	close(proceed)
	if body := <-slow; body != "done" {
		t.Errorf("a request in progress was answered with %q", body)
	}
	if err := s.end(); err != nil {
		t.Error(err)
	}
	if log := s.log.String(); !strings.Contains(log, "msg=stopping connections=1") || !strings.Contains(log, "msg=stopped") {
		t.Errorf("the log says\n%s", log)
	}
}

func TestServeGoesOnForTheDelay(t *testing.T) {
	t.Parallel()
	s := serveHub(t, hub.Options{DrainWindow: -1}, transport.ServeOptions{Delay: time.Hour})
	s.cancel()
	s.open()
	s.ln.Close() // a failure waits for nothing
	if err := s.end(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// Browsers open a connection in reserve. net/http would wait five seconds for it.
func TestServeDoesNotWaitForConnectionsThatSayNothing(t *testing.T) {
	states := make(chan http.ConnState, 8)
	s := serveHub(t, hub.Options{}, transport.ServeOptions{Timeout: 4 * time.Second, HTTP: func(server *http.Server) {
		server.ConnState = func(_ net.Conn, state http.ConnState) { states <- state }
	}})
	reserve, err := net.Dial("tcp", s.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer reserve.Close()
	if state := <-states; state != http.StateNew {
		t.Errorf("the state is %v", state)
	}
	s.cancel()
	if err := s.end(); err != nil {
		t.Error(err)
	}
	if log := s.log.String(); strings.Contains(log, "cut off") {
		t.Errorf("the log says\n%s", log)
	}
}

func TestServeCutsOffRequestsThatTakeTooLong(t *testing.T) {
	s := serveHub(t, hub.Options{}, transport.ServeOptions{Timeout: time.Millisecond})
	begun := make(chan struct{})
	s.mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})
	cut := make(chan error, 1)
	go func() { // ends with the connection; received below
		_, err := http.Get(s.url + "/slow")
		cut <- err
	}()
	<-begun
	s.cancel()
	if err := s.end(); err != nil {
		t.Error(err)
	}
	if err := <-cut; err == nil {
		t.Error("the request was answered")
	}
	if log := s.log.String(); !strings.Contains(log, "requests are cut off") {
		t.Errorf("the log says\n%s", log)
	}
}

func TestServeReturnsWhatTheHubFailedWith(t *testing.T) {
	broken := errors.New("no such table")
	s := serveHub(t, hub.Options{OnStart: func(context.Context, *hub.Hub) error { return broken }}, transport.ServeOptions{Delay: time.Hour})
	if err := s.end(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestServeSpeaksTLS(t *testing.T) {
	model := httptest.NewUnstartedServer(nil) // it has a certificate, and a client that trusts it and speaks HTTP/2
	model.EnableHTTP2 = true
	model.StartTLS()
	defer model.Close()
	s := serveHub(t, hub.Options{}, transport.ServeOptions{TLS: &tls.Config{Certificates: model.TLS.Certificates}})
	s.url = strings.Replace(s.url, "http:", "https:", 1)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto+" "+r.TLS.NegotiatedProtocol) })
	if status, body := s.get(model.Client(), "/"); status != http.StatusOK || body != "HTTP/1.1 http/1.1" {
		t.Errorf("got %d %q", status, body)
	}
	s.cancel()
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func TestServeChangesTheServer(t *testing.T) {
	var timeout time.Duration
	s := serveHub(t, hub.Options{}, transport.ServeOptions{HTTP: func(server *http.Server) {
		timeout = server.ReadHeaderTimeout
		server.Handler = http.NotFoundHandler()
	}})
	if status, _ := s.get(http.DefaultClient, "/socket.io/"); status != http.StatusNotFound || timeout != 10*time.Second {
		t.Errorf("got %d, and a server with a timeout of %v", status, timeout)
	}
	s.cancel()
	if err := s.end(); err != nil {
		t.Error(err)
	}
}
