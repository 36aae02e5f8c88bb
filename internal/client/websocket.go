package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/lxzan/gws"
)

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
