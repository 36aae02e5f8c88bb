package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tether/internal/client"
	"tether/token"
)

func TestAnOrderIsToldToTheUsersOtherDevices(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(serving, listener, "memory://", token.GenerateKey()) }()
	base := "http://" + listener.Addr().String()

	mine := post(t, base+"/login", "", "user=42")
	c, err := client.Dial(ctx, client.Options{URL: base, Auth: map[string]string{"token": mine}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if e, err := c.Next(ctx); err != nil || e.Name != "/ops/connection-success" {
		t.Fatalf("got %v, %v", e, err)
	}
	if got, want := post(t, base+"/orders", mine, "title=tea"), `{"id":1,"title":"tea","told":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if e, err := c.Next(ctx); err != nil || e.Name != "/orders/placed" || string(e.Args[0]) != `{"id":1,"title":"tea"}` {
		t.Errorf("got %v, %v", e, err)
	}
	other := post(t, base+"/login", "", "user=43")
	if got, want := post(t, base+"/orders", other, "title=milk"), `{"id":2,"title":"milk","told":0}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := post(t, base+"/orders", "nonsense", "title=milk"); got != "unauthorized" {
		t.Errorf("got %s", got)
	}
	for _, auth := range []any{nil, map[string]string{"token": "nonsense"}} {
		if _, err := client.Dial(ctx, client.Options{URL: base, Auth: auth}); err == nil {
			t.Errorf("connects with %v", auth)
		}
	}

	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-c.Ended()
}

func post(t *testing.T, address, key, form string) string {
	t.Helper()
	if _, err := url.ParseQuery(form); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Token", key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(body))
}
