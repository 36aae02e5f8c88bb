package metrics

import (
	"bytes"
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
	"tether/internal/client"
	"tether/presence"
	"tether/transport"
)

// withPresence gives a hub one that tells of changes.
func withPresence(t *testing.T) func(*hub.Hub) {
	return func(h *hub.Hub) {
		if _, err := presence.New(h, presence.Options{Grace: -1, OnChange: func(context.Context, presence.Event) {}}); err != nil {
			t.Fatal(err)
		}
	}
}

// server is a node with metrics. The functions are called before the collector is.
type server struct {
	hub       *hub.Hub
	url       string
	collector *Collector
	registry  *prometheus.Registry
}

func serve(t testing.TB, b broker.Broker, o transport.Options, before ...func(*hub.Hub)) *server {
	t.Helper()
	m := New()
	h, err := hub.New(b, hub.Options{DrainWindow: -1, Node: "node-7", Version: "v1.2.3", Tracers: []hub.Tracer{m.Events()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range before {
		do(h)
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "42") })
	s := &server{hub: h, collector: m, registry: prometheus.NewPedanticRegistry()}
	s.registry.MustRegister(s.collector)
	if text := s.text(t); text != "" {
		t.Errorf("before Watch there is %s", text)
	}
	if o.OnWritten == nil {
		o.OnWritten = s.collector.Written
	}
	sockets, err := transport.NewHandler(h, o)
	if err != nil {
		t.Fatal(err)
	}
	s.collector.Watch(h, sockets)
	web := httptest.NewServer(sockets)
	s.url = web.URL
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }() // waited for below
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		sockets.Close()
		web.Close()
	})
	for h.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	return s
}

// text is what is scraped, as OpenMetrics.
func (s *server) text(t testing.TB) string {
	t.Helper()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	w := httptest.NewRecorder()
	promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return strings.TrimSuffix(w.Body.String(), "# EOF\n")
}

func (s *server) dial(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{URL: s.url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// want waits until a scrape has all lines.
func (s *server) want(t testing.TB, lines ...string) {
	t.Helper()
	var got []string
	for range 2000 {
		got = strings.Split(s.text(t), "\n")
		if lines = slices.DeleteFunc(lines, func(l string) bool { return slices.Contains(got, l) }); len(lines) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("got\n%s\nwant also\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
}

func TestTheFiguresOfANodeAreShown(t *testing.T) {
	b := memory.NewBus()
	s, other := serve(t, b.Broker(), transport.Options{}), serve(t, b.Broker(), transport.Options{})
	c, gone := s.dial(t), s.dial(t)
	for range 128 { // from the other node
		if _, err := other.hub.Emitter().Emit(t.Context(), hub.User("42"), "/users/ping"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.hub.Emitter().Emit(t.Context(), hub.User("nobody"), "x"); err != nil {
		t.Fatal(err)
	}
	for range s.hub.Emitter().FetchSockets(t.Context(), hub.User("42"), hub.FetchOptions{}).All {
	}
	if err := c.Emit(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.hub.Emitter().Disconnect(t.Context(), hub.SocketID(gone.ID), true); err != nil {
		t.Fatal(err)
	}
	s.want(t,
		`socket_io_connected 1.0`,
		`socket_io_connect_total 2.0`,
		`socket_io_disconnect_total{reason="server namespace disconnect"} 1.0`,
		`socket_io_events_received_total 1.0`,
		`socket_io_events_sent_total 256.0`,
		`socket_io_errors_total{kind="unhandled"} 1.0`,
		`tether_node_info{node="node-7",version="v1.2.3"} 1.0`,
		`tether_ready 1.0`, `tether_draining 0.0`,
		`tether_members 2.0`, `tether_members_certain 1.0`,
		`tether_connections 1.0`, `tether_connections_opened_total 2.0`,
		`tether_emits_total 1.0`,
		`tether_receipts_total{answer="nobody"} 1.0`,
		`tether_gaps_total 0.0`, `tether_unwanted_total 0.0`,
		`tether_questions_total{outcome="complete"} 2.0`,
		`tether_slow_clients_total{cause="queue"} 0.0`,
		`tether_dropped_total{policy="latest"} 0.0`,
	)
	text := s.text(t)
	for _, name := range []string{"socket_io_transmit_bytes_total", "socket_io_receive_bytes_total", "tether_rooms", "tether_emit_to_write_seconds_count"} {
		if strings.Contains(text, name+" 0") || !strings.Contains(text, "\n"+name+" ") {
			t.Errorf("%s is 0 or missing", name)
		}
	}
}

func TestAllThatIsInTheTableIsShownAndNothingElse(t *testing.T) {
	s := serve(t, memory.NewBus().Broker(), transport.Options{}, withPresence(t))
	s.collector.events.count(handled{"/", "/orders"})
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	for _, m := range table {
		want = append(want, m.name)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	problems, err := promlint.New(bytes.NewBufferString(s.plain(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func (s *server) plain(t testing.TB) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestNoLabelHoldsWhatAClientOrACallerNames: a series for each would fill the memory of Prometheus.
func TestNoLabelHoldsWhatAClientOrACallerNames(t *testing.T) {
	s := serve(t, memory.NewBus().Broker(), transport.Options{})
	before := strings.Count(s.text(t), "\n")
	const odd = "a-name-of-its-own"
	s.hub.Match(func(string) bool { return true })
	s.hub.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		return s.Join(ctx, hub.Room(odd))
	})
	c := s.dial(t)
	for range 64 {
		if _, err := s.hub.Emitter().Emit(t.Context(), hub.Room(odd), odd); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Emit(t.Context(), odd); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Dial(t.Context(), client.Options{URL: s.url, Namespace: "/" + odd}); err != nil {
		t.Fatal(err)
	}
	s.want(t, `socket_io_connected 2.0`, `tether_namespaces 2.0`, `socket_io_events_received_total 1.0`, `tether_emit_to_write_seconds_count 1`)
	text := s.text(t)
	if strings.Contains(text, odd) {
		t.Errorf("a name is in\n%s", text)
	}
	if after := strings.Count(text, "\n"); after != before {
		t.Errorf("%d lines, before %d", after, before)
	}
}

// named is a connection with an ID.
type named struct{ engine.Conn }

func (named) ID() string { return "a-secret" }

func TestAnExemplarNamesTheConnectionAndNotItsSecret(t *testing.T) {
	s := serve(t, memory.NewBus().Broker(), transport.Options{})
	for range 3 {
		s.collector.Written(named{}, time.Millisecond)
		s.collector.Written(named{}, time.Second)
	}
	text := s.text(t)
	if n := strings.Count(text, `{connection="`+engine.PublicID("a-secret")+`"}`); n != 2 || strings.Contains(text, "a-secret") {
		t.Errorf("%d exemplars, want one of a quick event and one of a slow one:\n%s", n, text)
	}
}

func TestAClockThatIsAheadIsCounted(t *testing.T) {
	s := serve(t, memory.NewBus().Broker(), transport.Options{})
	s.collector.Written(named{}, -time.Second)
	s.want(t, `tether_emit_clock_ahead_total 1.0`, `tether_emit_to_write_seconds_count 1`, `tether_emit_to_write_seconds_sum 0.0`)
}

func TestADrainIsSeen(t *testing.T) {
	b := memory.NewBus().Broker()
	h, err := hub.New(b, hub.Options{DrainWindow: -1})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{collector: New(), registry: prometheus.NewRegistry()}
	s.registry.MustRegister(s.collector)
	s.collector.Watch(h, nil) // a transport of somebody else's
	s.want(t, `tether_ready 0.0`, `tether_draining 0.0`)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := h.Run(ctx); err != nil {
		t.Fatal(err)
	}
	s.want(t, `tether_ready 0.0`, `tether_draining 1.0`)
	if text := s.text(t); strings.Contains(text, "tether_queue_bytes ") {
		t.Errorf("figures of a transport that there is not:\n%s", text)
	}
}
