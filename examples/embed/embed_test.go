package main

import (
	"context"
	"net"
	"testing"

	"tether/examples/internal/exampletest"
)

func TestAUserIsPinged(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, ln, "memory://") }() // received below

	c := exampletest.Connect(t, url, `{"user":"42"}`)
	c.Want(`40{"sid":"…`, `42["/ops/connection-success",{"message":"Successfully connected"}]`)
	if status, body := exampletest.Post(t, url+"/ping/42", ""); status != 200 || body != "1 node took it" {
		t.Errorf("ping of a user who is there: %d %s", status, body)
	}
	c.Want(`42["/users/ping",{"hello":"world"}]`)
	if status, body := exampletest.Post(t, url+"/ping/43", ""); status != 200 || body != "nobody is there" {
		t.Errorf("ping of a user who is not there: %d %s", status, body)
	}
	refused := exampletest.Connect(t, url, "")
	refused.Want(`44{"message":"unauthorized"}`)

	c.Send("1") // without clients there is nothing to spread over the drain window
	refused.Send("1")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
