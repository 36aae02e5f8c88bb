package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

// head has ´ where the page has `.
const head = `# Metrics

<!-- Made from metrics/table.go by: go test ./metrics -run TheDocsListAllMetrics -update -->

Package ´metrics´ shows the figures of a node to Prometheus, and ´tether serve´ serves them at ´/metrics´. What the
packages for Socket.IO on Node show too has their names, with ´_total´ where OpenMetrics wants it. Package ´hub´ and
package ´transport´ know nothing of Prometheus.

Labels are bounded: none holds a user, a room or a name that a client has made up. Counters begin with 0 when a node starts.

With ´tether serve´ one of ´stats.keys´ opens them, as a bearer token:

´´´yaml
scrape_configs:
  - job_name: tether
    authorization: { type: Bearer, credentials_file: /etc/prometheus/tether.key }
    static_configs: [{ targets: ["127.0.0.1:3000"] }]
´´´

´deploy/prometheus/alerts.yaml´ has alerts, and ´deploy/grafana/tether.json´ a dashboard: import it, and choose the
Prometheus.

![The dashboard: nodes, connections, events, time from emit to write, queues of slow clients](grafana.png)

The picture shows the panels of that file, drawn with Grafana's panel library (´@grafana/ui´ 11.6) and not by a Grafana server.
The series are those of three nodes with 200 clients: two clients did not read, and then one node was killed and started again.

In a program of your own:

´´´go
m := metrics.New()
sockets, err := transport.NewHandler(h, transport.Options{OnWritten: m.Written})
m.Watch(h, sockets) // when the presence of the hub has been made, if it has one
prometheus.MustRegister(m)
´´´

## From emit to write

´tether_emit_to_write_seconds´ is measured over the whole cluster: on the node that writes to the client, since the
emit on whatever node it was. One emit in 64 carries its time, four bytes of it; the others carry none, and no clock is
read for them.

- Between two hosts the figure is wrong by as much as their clocks differ. From the moment when an event has come to
  its node, monotonic time counts. ´tether_emit_clock_ahead_total´ counts events that were there before they were
  emitted: if it grows, clocks differ by more than events take.
- "Written" is when the kernel has taken the last byte. What the network and the client need comes on top.
- Events that are dropped, and emits with ´Socket.Emit´ and ´EmitAck´, are not in it.
- Prometheus takes the native histogram with ´--enable-feature=native-histograms´, and ten classic buckets otherwise.
- Exemplars have the label ´connection´: the name of the connection that is in the log too. Once a second one event is
  noted, and once a second one that took more than 100 ms.

## What they cost

´go test -run '^$' -bench Cost ./metrics´ measures what a delivery costs more than without all this: one or two atomic
additions for each event and each write, and for one event in 64 a look at the clock and a place in the histogram. An
idle connection costs nothing. On two cores that was 18 ns for the additions, and 263 ns for one event in 64, which is
4 ns each: 0.2 % of a delivery of 12.7 µs from the emit to the write to a WebSocket. A scrape took 100 µs.

## All of them

| name | kind | unit | labels | meaning |
|---|---|---|---|---|
`

func page() []byte {
	var b bytes.Buffer
	b.WriteString(strings.ReplaceAll(head, "´", "`"))
	for _, m := range table {
		kind := map[prometheus.ValueType]string{counter: "counter", gauge: "gauge", prometheus.UntypedValue: "histogram"}[m.kind]
		labels := ""
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(m.labels, "`, `") + "`: " + m.values
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.name, kind, m.unit, labels, m.help)
	}
	return b.Bytes()
}

func TestTheDocsListAllMetrics(t *testing.T) {
	const path = "../docs/metrics.md"
	if *update {
		if err := os.WriteFile(path, page(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, page()) {
		t.Errorf("%s is not what the code says: go test ./metrics -run TheDocsListAllMetrics -update", path)
	}
}
