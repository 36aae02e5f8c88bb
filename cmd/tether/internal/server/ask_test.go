package server

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/cmd/tether/internal/config"
	"tether/hub"
	"tether/hubtest"
)

// startAPI is the API of a node without a network.
func startAPI(t *testing.T) (*api, *hubtest.Node) {
	n := hubtest.Start(t, func(b broker.Broker) (*hub.Hub, error) {
		return hub.New(b, hub.Options{Greeting: hub.Greeting{Off: true}, Logger: slog.New(slog.DiscardHandler)})
	})
	return &api{config: &config.Config{Namespaces: []string{"/"}}, hub: n.Hub}, n
}

// TestAnAnswerOfAskHasABound: in sockets and in bytes, at each bound and one past it.
func TestAnAnswerOfAskHasABound(t *testing.T) {
	const mebibyte = 1 << 20
	for _, c := range []struct {
		sockets, bytes int // bytes: of the arguments of each answer, as JSON
		limit          string
		answers        int
		more           bool
	}{
		{2, 4, `,"limit":2`, 2, false},
		{3, 4, `,"limit":2`, 2, true},
		{defaultLimit, 4, ``, defaultLimit, false},
		{defaultLimit + 1, 4, ``, defaultLimit, true},
		{defaultLimit + 1, 4, `,"limit":10000`, defaultLimit + 1, false},
		{16, mebibyte, ``, 16, false},
		{16, mebibyte + 1, ``, 15, true},
	} {
		t.Run(fmt.Sprintf("%d sockets of %d bytes%s", c.sockets, c.bytes, c.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, n := startAPI(t)
				clients := make([]*hubtest.Client, c.sockets)
				for i := range clients {
					clients[i] = n.Connect(nil)
				}
				answered := make(chan string, 1)
				began := time.Now()
				go func() { // received below
					out, err := a.ask(t.Context(), []byte(`{"everyone":true,"event":"size"`+c.limit+`}`))
					if err != nil {
						answered <- err.Error()
						return
					}
					text, _ := json.Marshal(out)
					answered <- string(text)
				}()
				for _, k := range clients {
					k.Expect("size").Answer(strings.Repeat("x", c.bytes-len(`[""]`)))
				}
				var got struct {
					Answers []struct {
						Socket string
						Args   []string
					}
					More    *bool
					Missing []Missing
				}
				text := <-answered
				if err := json.Unmarshal([]byte(text), &got); err != nil || got.More == nil {
					t.Fatalf("got %.200s", text)
				}
				if len(got.Answers) != c.answers || *got.More != c.more || len(got.Missing) > 0 {
					t.Errorf("got %d answers, more: %v, missing %v", len(got.Answers), *got.More, got.Missing)
				}
				for _, one := range got.Answers {
					if len(one.Args) != 1 || one.Socket == "" {
						t.Errorf("got %.200v", one)
					}
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %v of the clock of the bubble, as if an answer were missing", took)
				}
			})
		})
	}
}

// TestALimitOutOfRangeIsRefused: of answers as of sockets.
func TestALimitOutOfRangeIsRefused(t *testing.T) {
	a, _ := startAPI(t)
	for _, limit := range []int{-1, maxLimit + 1} {
		for name, serve := range map[string]func() (any, error){
			"ask": func() (any, error) {
				return a.ask(t.Context(), fmt.Appendf(nil, `{"everyone":true,"event":"x","limit":%d}`, limit))
			},
			"sockets": func() (any, error) {
				return a.fetch(t.Context(), fmt.Appendf(nil, `{"everyone":true,"limit":%d}`, limit))
			},
		} {
			want := fmt.Sprintf(`"limit" is %d; 1 to 10000 is right`, limit)
			if out, err := serve(); err == nil || err.Error() != want || statusOf(err) != 400 {
				t.Errorf("%s with %d: got %v, %v", name, limit, out, err)
			}
		}
	}
}
