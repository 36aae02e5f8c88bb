// Package client is a Socket.IO client for tests: over WebSocket, over polling, or over polling with
// the upgrade, with or without cookies, and from any loopback address, so that proxies can be tested.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/lxzan/gws"
)

// The ways of a client.
const (
	WebSocket = "websocket"
	Polling   = "polling"
	Upgrade   = "upgrade" // polling first, then WebSocket
)

// Options of a client.
type Options struct {
	URL       string // http://host:port or https://host:port
	Transport string // default WebSocket
	Namespace string // default "/"
	Auth      any    // payload of CONNECT; nil: none
	Cookies   bool   // keep cookies
	From      string // source address; default: any
	Header    http.Header
	TLS       *tls.Config
}

// Event is what the server has emitted.
type Event struct {
	Name string
	Args []json.RawMessage
}

// Client is connected to a namespace, until it is closed or the server ends it.
type Client struct {
	ID string // of the socket

	options Options
	http    *http.Client
	sid     string
	cancel  context.CancelFunc
	readers sync.WaitGroup

	answer chan error  // of CONNECT
	events chan Event  // closed at the end
	pongs  chan string // 3probe
	ended  chan struct{}
	end    sync.Once
	reason string // set before ended is closed

	mu sync.Mutex
	ws *gws.Conn // guarded by mu; nil while polling
}

// A Refused error is the server's CONNECT_ERROR.
type Refused struct{ Message string }

func (r *Refused) Error() string { return "client: refused: " + r.Message }

// Dial connects, and returns once the server has accepted the namespace.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Transport == "" {
		o.Transport = WebSocket
	}
	if o.Namespace == "" {
		o.Namespace = "/"
	}
	dialer := &net.Dialer{}
	if o.From != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(o.From)}
	}
	c := &Client{
		options: o,
		http:    &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: o.TLS.Clone()}},
		answer:  make(chan error, 1),
		events:  make(chan Event, 4096),
		pongs:   make(chan string, 2),
		ended:   make(chan struct{}),
	}
	if o.Cookies {
		c.http.Jar, _ = cookiejar.New(nil)
	}
	run, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	if err := c.open(ctx, run); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) open(ctx, run context.Context) error {
	var err error
	if c.options.Transport == WebSocket {
		err = c.dial(ctx)
	} else {
		err = c.handshake(ctx, run)
	}
	if err != nil {
		return err
	}
	connect := "0"
	if c.options.Namespace != "/" {
		connect += c.options.Namespace + ","
	}
	if c.options.Auth != nil {
		auth, err := json.Marshal(c.options.Auth)
		if err != nil {
			return err
		}
		connect += string(auth)
	}
	if err := c.send(ctx, "4"+connect); err != nil {
		return err
	}
	select {
	case err = <-c.answer:
	case <-c.ended:
		err = errors.New("client: ended while connecting: " + c.reason)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil && c.options.Transport == Upgrade {
		err = c.upgrade(ctx)
	}
	return err
}

// Next waits for the next event.
func (c *Client) Next(ctx context.Context) (Event, error) {
	select {
	case e := <-c.events:
		return e, nil
	default:
	}
	select {
	case e := <-c.events:
		return e, nil
	case <-c.ended:
		return Event{}, errors.New("client: ended: " + c.reason)
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}

// Ended is closed when the server, the network or Close has ended the client.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Reason says what ended it.
func (c *Client) Reason() string { <-c.ended; return c.reason }

// Transport is what carries the client now.
func (c *Client) Transport() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ws != nil {
		return WebSocket
	}
	return Polling
}

// Close ends the client and waits for what it has started.
func (c *Client) Close() {
	c.finish("closed by the test")
	c.cancel()
	c.mu.Lock()
	ws := c.ws
	c.mu.Unlock()
	if ws != nil {
		_ = ws.NetConn().Close()
	}
	c.readers.Wait()
	c.http.CloseIdleConnections()
}

// Emit sends an event.
func (c *Client) Emit(ctx context.Context, name string, args ...any) error {
	data, err := json.Marshal(append([]any{name}, args...))
	if err != nil {
		return err
	}
	return c.send(ctx, "42"+string(data))
}

func (c *Client) finish(reason string) {
	c.end.Do(func() {
		c.reason = reason
		close(c.ended)
	})
}

func (c *Client) send(ctx context.Context, packet string) error {
	c.mu.Lock()
	ws := c.ws
	c.mu.Unlock()
	if ws != nil {
		return ws.WriteString(packet)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address("http", Polling), strings.NewReader(packet))
	if err != nil {
		return err
	}
	_, err = c.do(req)
	return err
}

// receive handles one Engine.IO packet.
func (c *Client) receive(packet string) {
	if packet == "" {
		return
	}
	switch kind, rest := packet[0], packet[1:]; kind {
	case '1':
		c.finish("closed by the server")
	case '2':
		if err := c.send(context.Background(), "3"+rest); err != nil {
			c.finish("pong: " + err.Error())
		}
	case '3':
		c.pongs <- rest
	case '4':
		c.message(rest)
	}
}

// message handles one Socket.IO packet.
func (c *Client) message(text string) {
	if text == "" {
		return
	}
	kind, rest := text[0], text[1:]
	if strings.HasPrefix(rest, "/") {
		_, rest, _ = strings.Cut(rest, ",")
	}
	switch kind {
	case '0':
		var in struct{ SID string }
		_ = json.Unmarshal([]byte(rest), &in)
		c.ID = in.SID
		c.answer <- nil
	case '1':
		c.finish("disconnected by the server")
	case '2':
		var args []json.RawMessage
		if err := json.Unmarshal([]byte(rest), &args); err != nil || len(args) == 0 {
			c.finish("not an event: " + rest)
			return
		}
		e := Event{Args: args[1:]}
		_ = json.Unmarshal(args[0], &e.Name)
		c.events <- e
	case '4':
		r := &Refused{}
		_ = json.Unmarshal([]byte(rest), r)
		c.answer <- r
	}
}

func (c *Client) address(scheme, transport string) string {
	u, _ := url.Parse(c.options.URL)
	u.Path = "/socket.io/"
	if scheme == "ws" {
		u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	}
	q := url.Values{"EIO": {"4"}, "transport": {transport}}
	if c.sid != "" {
		q.Set("sid", c.sid)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// do returns the body of an answer with status 200.
func (c *Client) do(req *http.Request) (string, error) {
	for k, v := range c.options.Header {
		req.Header[k] = v
	}
	res, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("client: %s %s: %s: %s", req.Method, req.URL.Path, res.Status, body)
	}
	return string(body), nil
}

// handshake begins a session over polling, and reads from it until it ends or has been upgraded.
func (c *Client) handshake(ctx, run context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address("http", Polling), nil)
	if err != nil {
		return err
	}
	body, err := c.do(req)
	if err != nil {
		return err
	}
	var open struct{ SID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(body, "0")), &open); err != nil {
		return fmt.Errorf("client: not a handshake: %q", body)
	}
	c.sid = open.SID
	c.readers.Go(func() { c.poll(run) })
	return nil
}

func (c *Client) poll(run context.Context) {
	upgraded := false
	for {
		req, err := http.NewRequestWithContext(run, http.MethodGet, c.address("http", Polling), nil)
		if err != nil {
			c.finish(err.Error())
			return
		}
		body, err := c.do(req)
		if err != nil {
			c.finish("poll: " + err.Error())
			return
		}
		for packet := range strings.SplitSeq(body, "\x1e") {
			if packet == "6" {
				upgraded = true
				continue
			}
			c.receive(packet)
		}
		select {
		case <-c.ended:
			return
		default:
		}
		if upgraded {
			c.pongs <- "polling paused"
			return
		}
	}
}

// upgrade moves the session to a WebSocket.
func (c *Client) upgrade(ctx context.Context) error {
	ws, err := c.newWebSocket()
	if err != nil {
		return err
	}
	c.readers.Go(ws.ReadLoop)
	if err := ws.WriteString("2probe"); err != nil {
		return err
	}
	for range 2 { // the pong, and the end of the poll, in any order
		select {
		case <-c.pongs:
		case <-c.ended:
			return errors.New("client: ended during the upgrade: " + c.reason)
		case <-ctx.Done():
			_ = ws.NetConn().Close()
			return ctx.Err()
		}
	}
	if err := ws.WriteString("5"); err != nil {
		return err
	}
	c.mu.Lock()
	c.ws = ws
	c.mu.Unlock()
	return nil
}

func (c *Client) dial(context.Context) error {
	ws, err := c.newWebSocket()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.ws = ws
	c.mu.Unlock()
	c.readers.Go(ws.ReadLoop)
	return nil
}

func (c *Client) newWebSocket() (*gws.Conn, error) {
	header := c.options.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if c.http.Jar != nil {
		u, _ := url.Parse(c.address("http", WebSocket))
		for _, k := range c.http.Jar.Cookies(u) {
			header.Add("Cookie", k.Name+"="+k.Value)
		}
	}
	ws, res, err := gws.NewClient(reader{c: c}, &gws.ClientOption{
		Addr:             c.address("ws", WebSocket),
		RequestHeader:    header,
		TlsConfig:        c.options.TLS.Clone(), // the library changes it
		HandshakeTimeout: 5 * time.Second,
		NewDialer: func() (gws.Dialer, error) {
			d := &net.Dialer{Timeout: 5 * time.Second}
			if c.options.From != "" {
				d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(c.options.From)}
			}
			return d, nil
		},
	})
	if err != nil {
		if res != nil {
			return nil, fmt.Errorf("client: websocket: %s: %w", res.Status, err)
		}
		return nil, fmt.Errorf("client: websocket: %w", err)
	}
	return ws, nil
}

// reader feeds the client from its WebSocket.
type reader struct {
	gws.BuiltinEventHandler
	c *Client
}

func (r reader) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	r.c.receive(m.Data.String())
}

func (r reader) OnClose(_ *gws.Conn, err error) {
	r.c.finish("websocket: " + err.Error())
}
