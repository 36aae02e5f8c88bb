package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

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
