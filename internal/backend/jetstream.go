package backend

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// serveEnv has a test binary be a nats-server instead, with these arguments, one a line.
const serveEnv = "TETHER_TEST_SERVE_NATS"

// A process of its own can be killed. A binary of a distribution is too old for what a log needs, so it is this one.
func init() {
	text, is := os.LookupEnv(serveEnv)
	if !is {
		return
	}
	args := strings.Split(text, "\n")
	stop, err := startNATS(args[0], args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
	stop()
	os.Exit(0)
}

// JetStream returns a NATS server of the version in go.mod with JetStream, which keeps what it has in a directory: a process
// that Stop kills.
func JetStream(t testing.TB, dir string, args ...string) *Server {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := natsServer
	p.args = func(host, port, _ string) []string { return nil }
	host, port := freePort(t)
	s := processAt(t, p, path, host, port, nil, serveEnv+"="+strings.Join(append([]string{host + ":" + port}, jetStream(dir, args)...), "\n"))
	return s
}

// JetStreamStandIn is JetStream inside this process.
func JetStreamStandIn(t testing.TB, dir string, args ...string) *Server {
	t.Helper()
	return NATSStandIn(t, jetStream(dir, args)...)
}

func jetStream(dir string, args []string) []string {
	return append([]string{"--jetstream", "--store_dir", dir}, args...)
}
