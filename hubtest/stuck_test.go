package hubtest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"tether/hub"
	"tether/hubtest"
	"tether/internal/long"
	"tether/transport"
)

// TestAStuckClientGetsWhatTheTransportWouldLeaveIt compares a client of hubtest that does not read with one on polling
// that does not poll: both get the same emits, at random, and have the same queue.
func TestAStuckClientGetsWhatTheTransportWouldLeaveIt(t *testing.T) {
	const queue = 1000
	node := hubtest.Start(t, newHub)
	sockets, err := transport.NewHandler(node.Hub, transport.Options{QueueBytes: queue})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sockets)
	defer server.Close()
	defer sockets.Close()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	e := node.Hub.Emitter()
	closed, rounds := 0, long.Or(20, 100)
	for round := range rounds {
		user := fmt.Sprint("user", round)
		stuck := node.Dial(hubtest.Handshake{Auth: auth{User: user}, QueueBytes: queue})
		p := startPoller(t, server.URL, user)
		stuck.StopReading()
		script := ""
		for n := range 8 {
			policy := r.IntN(6)
			emitter := []*hub.Emitter{e, e.Overflow(hub.DropOldest), e.Overflow(hub.DropOldest), e.Overflow(hub.DropNewest), e.Latest("a"), e.Volatile()}[policy]
			size := 50 + r.IntN(400)
			script += fmt.Sprintf(" %d:%d×%d", n, policy, size)
			if _, err := emitter.Emit(t.Context(), hub.User(user), "n", n, strings.Repeat("x", size)); err != nil {
				t.Fatal(err)
			}
		}
		stuck.Refute("n") // what was emitted has come
		want, open := p.drain(t)
		if !open {
			closed++
			stuck.ExpectEnd(hub.ReasonServerClose)
			continue
		}
		stuck.ReadAgain()
		var got []int
		for range want {
			var n int
			stuck.Next().Decode(0, &n)
			got = append(got, n)
		}
		stuck.Refute("n")
		stuck.Close()
		p.request(t, http.MethodPost, "1")
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d, emits (number:policy×size)%s: got %v, the transport leaves %v", seed, script, got, want)
		}
	}
	if closed == rounds {
		t.Errorf("all of %d clients were cut off: that compares little", closed)
	}
}

// poller is a client on polling, which reads only what drain asks for.
type poller struct{ url string }

func startPoller(t *testing.T, base, user string) *poller {
	t.Helper()
	p := &poller{base + "/socket.io/?EIO=4&transport=polling"}
	_, body := p.request(t, http.MethodGet, "")
	var open struct{ SID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(body, "0")), &open); err != nil {
		t.Fatal(err)
	}
	p.url += "&sid=" + open.SID
	text, _ := json.Marshal(auth{User: user})
	p.request(t, http.MethodPost, "40"+string(text))
	for !strings.HasPrefix(body, "40") {
		_, body = p.request(t, http.MethodGet, "")
	}
	return p
}

func (p *poller) request(t *testing.T, method, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, p.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// drain returns the numbers that wait for the client, and whether its session lives.
func (p *poller) drain(t *testing.T) (list []int, open bool) {
	t.Helper()
	status, body := p.request(t, http.MethodGet, "")
	if status != http.StatusOK || body == "1" {
		return nil, false
	}
	for packet := range strings.SplitSeq(body, "\x1e") {
		var args []any
		if err := json.Unmarshal([]byte(strings.TrimPrefix(packet, "42")), &args); err != nil {
			t.Fatalf("%v: %q", err, packet)
		}
		list = append(list, int(args[1].(float64)))
	}
	return list, true
}
