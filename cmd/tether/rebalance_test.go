package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/client"
)

// roamer is a client that comes back to another node when it has lost its connection.
type roamer struct {
	t     *testing.T
	token string
	urls  []string // of the first node, and of those that it comes back to
	moves int
	got   int // numbers
}

// run has the client take numbers until last, each once and in order.
func (r *roamer) run(ctx context.Context, last int, connected func()) error {
	var id, pid, offset string
	for {
		c, err := client.Dial(ctx, client.Options{URL: r.urls[min(r.moves, len(r.urls)-1)],
			Auth: map[string]any{"token": r.token, "recovery": true, "pid": pid, "offset": offset}})
		if err != nil {
			return err
		}
		if r.moves > 0 && c.ID != id {
			c.Close()
			return fmt.Errorf("it is %s, and was %s", c.ID, id)
		}
		id, pid = c.ID, c.PID
		if r.moves == 0 {
			connected()
		}
		for {
			e, err := c.Next(ctx)
			if err != nil {
				break
			}
			offset = string(e.Args[len(e.Args)-1])
			_ = json.Unmarshal(e.Args[len(e.Args)-1], &offset)
			if e.Name != "n" {
				continue
			}
			var n int
			if err := json.Unmarshal(e.Args[0], &n); err != nil || n != r.got && n != last {
				c.Close()
				return fmt.Errorf("got %s, want %d", e.Args[0], r.got)
			}
			if r.got++; n == last {
				c.Close()
				return nil
			}
		}
		c.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.moves++
	}
}

func (p *process) connections() (n int) {
	p.t.Helper()
	got := p.request(http.MethodGet, "/stats", "Bearer "+testEmitKey, "")
	var stats struct{ Connections int }
	if err := json.Unmarshal([]byte(got.body), &stats); err != nil {
		p.t.Fatalf("got %v", got)
	}
	return stats.Connections
}

// TestRebalanceMovesClientsToEmptyNodes, and they notice nothing.
func TestRebalanceMovesClientsToEmptyNodes(t *testing.T) {
	for name, broker := range brokers(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const clients, last = 12, 1 << 30
			environ := append([]string{"TETHER_BROKER=" + broker.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
			var nodes []*process
			for _, name := range []string{"a", "b", "c"} {
				nodes = append(nodes, start(t, environ, "--node="+name, "--recovery.on").ready())
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			var connected, ended sync.WaitGroup
			roamers, errs := make([]*roamer, clients), make([]error, clients)
			connected.Add(clients)
			for i := range roamers {
				r := &roamer{t: t, token: tokenFor(t, fmt.Sprint(i), time.Hour), urls: []string{nodes[0].url(), nodes[1+i%2].url()}}
				roamers[i] = r
				ended.Go(func() {
					if errs[i] = r.run(ctx, last, connected.Done); errs[i] != nil {
						t.Logf("client %d: %v", i, errs[i])
					}
				})
			}
			connected.Wait()
			emit := func(n int) {
				if got := nodes[n%3].post("/emit", testEmitKey, fmt.Sprintf(`{"everyone":true,"event":"n","args":[%d]}`, n)); got.status != http.StatusOK {
					t.Fatalf("got %v", got)
				}
			}
			out, errText, code := tether(t, environ[:2], "rebalance", "--pace=10")
			if code != exitDone || !strings.Contains(out, "a     12           4.0   gives up 8 in 1s") || strings.Count(out, "nothing: it has no more than 20% more than the mean") != 2 {
				t.Fatalf("got %d %s%s", code, out, errText)
			}
			n := 0
			for deadline := time.Now().Add(patience); nodes[0].connections() > 4 || nodes[1].connections()+nodes[2].connections() < 8; n++ {
				if time.Now().After(deadline) {
					t.Fatalf("%d, %d and %d connections", nodes[0].connections(), nodes[1].connections(), nodes[2].connections())
				}
				emit(n)
			}
			emit(last)
			ended.Wait()
			moved := 0
			for i, r := range roamers {
				if moved += r.moves; errs[i] != nil || r.got != n+1 {
					t.Errorf("client %d, moved %d times: %d of %d numbers, %v", i, r.moves, r.got, n+1, errs[i])
				}
			}
			if moved != 8 || nodes[0].waitLog("this node has given connections up")["shed"] != 8.0 {
				t.Errorf("clients have moved %d times, want 8", moved)
			}
			out, errText, code = tether(t, environ[:2], "rebalance", "--json")
			if code != exitDone || strings.Count(out, `"shed":0`) != 3 {
				t.Errorf("again: got %d %s%s", code, out, errText)
			}
		})
	}
}

func TestRebalanceSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	redis := backend.Redis(t)
	environ := []string{"TETHER_BROKER=" + redis.URL, "TETHER_PREFIX=" + t.Name()}
	for _, c := range []struct {
		arg  string
		code int
		says string
	}{
		{"--pace=0", exitFailed, "rebalance: 0 connections a second: 1 to 1000 is right"},
		{"--percent=1001", exitFailed, "rebalance: 1001 percent: 0 to 1000 is right"},
		{"--least=0", exitFailed, "rebalance: at least 0 connections more: 1 or more is right"},
		{"--pace=1", exitNobody, ""},
	} {
		if out, errText, code := tether(t, environ, "rebalance", c.arg); code != c.code || !strings.Contains(errText, c.says) {
			t.Errorf("%s: got %d %s%s", c.arg, code, out, errText)
		}
	}
}
