// Package client is a Socket.IO client for tests: over WebSocket, over polling, or over polling with
// the upgrade, with or without cookies, and from any loopback address, so that proxies can be tested.
package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"

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

	// Answer answers events that ask for an acknowledgement. Nil: nobody does.
	Answer func(c *Client, e Event) []any
	Header http.Header
	TLS    *tls.Config
}

// Event is what the server has emitted.
type Event struct {
	Name string
	Args []json.RawMessage
}

// Client is connected to a namespace, until it is closed or the server ends it.
type Client struct {
	ID  string // of the socket
	PID string // of its session, "" if it has none

	options Options
	http    *http.Client
	sid     string
	cancel  context.CancelFunc
	readers sync.WaitGroup

	answer chan error  // of CONNECT
	events chan Event  // closed at the end
	acks   chan []any  // the answer to a call
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
		events:  make(chan Event, 1<<14),
		acks:    make(chan []any, 1),
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
	return c.emit(ctx, "", name, args)
}

// Call sends an event and waits for its acknowledgement. It is called by one goroutine.
func (c *Client) Call(ctx context.Context, name string, args ...any) (answer []any, err error) {
	if err := c.emit(ctx, "0", name, args); err != nil {
		return nil, err
	}
	select {
	case answer = <-c.acks:
		return answer, nil
	case <-c.ended:
		return nil, errors.New("client: ended: " + c.reason)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// emit sends an event; id is that of its acknowledgement.
func (c *Client) emit(ctx context.Context, id, name string, args []any) error {
	data, err := json.Marshal(append([]any{name}, args...))
	if err != nil {
		return err
	}
	return c.send(ctx, c.head("42")+id+string(data))
}

// head is what packets of a kind begin with.
func (c *Client) head(kind string) string {
	if c.options.Namespace == "/" {
		return kind
	}
	return kind + c.options.Namespace + ","
}

func (c *Client) acknowledge(id string, args []any) {
	data, err := json.Marshal(args)
	if err == nil {
		err = c.send(context.Background(), c.head("43")+id+string(data))
	}
	if err != nil {
		c.finish("acknowledge: " + err.Error())
	}
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
		var in struct{ SID, PID string }
		_ = json.Unmarshal([]byte(rest), &in)
		c.ID, c.PID = in.SID, in.PID
		c.answer <- nil
	case '1':
		c.finish("disconnected by the server")
	case '2':
		text := strings.TrimLeft(rest, "0123456789")
		var args []json.RawMessage
		if err := json.Unmarshal([]byte(text), &args); err != nil || len(args) == 0 {
			c.finish("not an event: " + rest)
			return
		}
		e := Event{Args: args[1:]}
		_ = json.Unmarshal(args[0], &e.Name)
		if id := rest[:len(rest)-len(text)]; id != "" && c.options.Answer != nil {
			c.acknowledge(id, c.options.Answer(c, e))
			return
		}
		select {
		case c.events <- e:
		case <-c.ended: // nobody reads them any more
		}
	case '3':
		var args []any
		_ = json.Unmarshal([]byte(strings.TrimPrefix(rest, "0")), &args)
		c.acks <- args
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
	if transport == Polling {
		q.Set("t", rand.Text()) // as stock clients do, so that a request that is sent again is known
	}
	if c.sid != "" {
		q.Set("sid", c.sid)
	}
	u.RawQuery = q.Encode()
	return u.String()
}
