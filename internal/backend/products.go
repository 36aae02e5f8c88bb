package backend

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	natsd "github.com/nats-io/nats-server/v2/server"
)

var redisServer = product{
	name:   "redis-server",
	scheme: "redis",
	env:    "TETHER_TEST_REDIS",
	image:  "redis:8-alpine",
	port:   "6379/tcp",
	args: func(host, port, dir string) []string {
		return []string{"--bind", host, "--port", port, "--dir", dir,
			"--save", "", "--appendonly", "no", "--daemonize", "no"}
	},
	inside:   []string{"redis-server", "--save", "", "--appendonly", "no"},
	ready:    redisReady,
	standIn:  "miniredis",
	standsIn: startMiniredis,
}

var natsServer = product{
	name:   "nats-server",
	scheme: "nats",
	env:    "TETHER_TEST_NATS",
	image:  "nats:2-alpine",
	port:   "4222/tcp",
	args: func(host, port, _ string) []string {
		return []string{"-a", host, "-p", port}
	},
	ready:    natsReady,
	standIn:  "nats-server " + natsd.VERSION + " in this process",
	standsIn: startNATS,
}

// redisReady accepts any answer to a PING but that the data are still being loaded: a server that
// asks for a password serves too.
func redisReady(c net.Conn) error {
	if _, err := io.WriteString(c, "*1\r\n$4\r\nPING\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && strings.HasPrefix(line, "-LOADING") {
		err = errors.New("still loading")
	}
	return err
}

// natsReady waits for the INFO with which the server greets.
func natsReady(c net.Conn) error {
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "INFO ") {
		err = fmt.Errorf("greeted with %.20q", line)
	}
	return err
}

// startMiniredis starts an empty one each time, as a restart without persistence would.
func startMiniredis(addr string, _ []string) (func(), error) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr(addr); err != nil {
		return nil, err
	}
	return m.Close, nil
}

var configuring sync.Mutex // nats-server has a variable for what it reads

func startNATS(addr string, args []string) (func(), error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	nothing := func() {}
	configuring.Lock()
	o, err := natsd.ConfigureOptions(flag.NewFlagSet("nats-server", flag.ContinueOnError),
		append([]string{"-a", host, "-p", port}, args...), nothing, nothing, nothing)
	configuring.Unlock()
	if err != nil {
		return nil, err
	}
	o.NoSigs, o.NoLog = true, true
	s, err := natsd.NewServer(o)
	if err != nil {
		return nil, err
	}
	failed := make(fatal, 1)
	s.SetLoggerV2(failed, false, false, false)
	s.Start()
	stop := func() { s.Shutdown(); s.WaitForShutdown() }
	for begin := time.Now(); !s.ReadyForConnections(readyLook); {
		select {
		case err = <-failed:
		default:
			if time.Since(begin) > startTimeout {
				err = errors.New("not ready after " + startTimeout.String())
			}
		}
		if err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

const readyLook = 100 * time.Millisecond

// fatal is a log of a NATS server that keeps the first reason why it cannot serve.
type fatal chan error

func (f fatal) Fatalf(format string, v ...any) {
	select {
	case f <- fmt.Errorf(format, v...):
	default:
	}
}

func (fatal) Noticef(string, ...any) {}
func (fatal) Warnf(string, ...any)   {}
func (fatal) Errorf(string, ...any)  {}
func (fatal) Debugf(string, ...any)  {}
func (fatal) Tracef(string, ...any)  {}

// startTimeout is how long a server may take until it serves, on a machine that is busy with other tests.
const startTimeout = 30 * time.Second
