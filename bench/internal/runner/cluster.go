package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"tether/bench/internal/clock"
	"tether/bench/internal/control"
	"tether/bench/internal/load"
	"tether/bench/internal/proc"
	"tether/bench/internal/scenario"
)

// server is a process that announced itself.
type server struct {
	*proc.Process
	control control.Client
	url     string
}

// cluster is what one repetition runs: a broker, nodes, perhaps an emitter, and clients. Close it.
type cluster struct {
	cfg     *Config
	s       scenario.Scenario
	peer    Peer
	run     uint32
	group   *proc.Group
	broker  *proc.Process
	nodes   []*server
	emitter *server // one of nodes, or a process of its own
	fleets  []*load.Fleet
	loaders []int         // processes of the fleets
	readers chan struct{} // one token for each goroutine that reads a process's output
	reading int
}

const (
	startTimeout = 15 * time.Second
	stopTimeout  = 3 * time.Second
)

// open starts the servers of a repetition. Clients are connected by connect.
func (cfg *Config) open(ctx context.Context, s scenario.Scenario, p Peer, run uint32) (*cluster, error) {
	c := &cluster{cfg: cfg, s: s, peer: p, run: run, group: proc.NewGroup(), readers: make(chan struct{}, 128)}
	if err := c.start(ctx); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *cluster) start(ctx context.Context) error {
	cmd := commands{self: c.cfg.Self, nodeDir: c.cfg.NodeDir, nodes: c.s.Nodes, users: c.s.Conns}
	// Psychic keeps its users in Redis even when there is one node.
	kind := c.s.Broker
	if c.peer.Name == "psychic" && kind == "" {
		kind = "redis"
	}
	if kind != "" {
		if err := c.startBroker(ctx, kind, &cmd); err != nil {
			return err
		}
	}
	for i := range c.s.Nodes {
		cmd.index = i
		n, err := c.launch(ctx, fmt.Sprintf("node %d", i+1), c.peer.serve, cmd)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	c.emitter = c.nodes[0]
	if c.s.Apart {
		if c.peer.emit == nil {
			return fmt.Errorf("runner: %s has no emitter apart from its nodes", c.peer.Name)
		}
		e, err := c.launch(ctx, "emitter", c.peer.emit, cmd)
		if err != nil {
			return err
		}
		c.emitter = e
	}
	return nil
}

// startBroker starts a server from PATH on a free port, without persistence.
func (c *cluster) startBroker(ctx context.Context, kind string, cmd *commands) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	name, args := "redis-server", []string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no",
		"--maxclients", "10000", "--client-output-buffer-limit", "pubsub", "0", "0", "0"}
	if kind == "nats" {
		name, args = "nats-server", []string{"-a", "127.0.0.1", "-p", port}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("runner: scenario %s needs %s on PATH", c.s.Name, name)
	}
	if c.broker, err = c.group.Start(kind, path, args, nil); err != nil {
		return fmt.Errorf("runner: start %s: %w", name, err)
	}
	c.discard(c.broker.Out)
	address := net.JoinHostPort("127.0.0.1", port)
	cmd.broker = kind + "://" + address
	for end := time.Now().Add(startTimeout); ; {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("runner: %s does not listen: %w: %s", name, err, c.broker.Stderr())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("runner: %w", err)
	}
	defer ln.Close()
	return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port), nil
}

// discard reads r to its end in a goroutine that close waits for.
func (c *cluster) discard(r io.Reader) {
	c.reading++
	go func() {
		_, _ = io.Copy(io.Discard, r) // the end of the process ends it, in whatever way
		c.readers <- struct{}{}
	}()
}

// launch starts a process and waits for its announcement.
func (c *cluster) launch(ctx context.Context, name string, command func(commands) (string, []string), cmd commands) (*server, error) {
	path, args := command(cmd)
	p, err := c.group.Start(name, path, args, c.cfg.Env)
	if err != nil {
		return nil, fmt.Errorf("runner: start %s of %s: %w", name, c.peer.Name, err)
	}
	type line struct {
		text []byte
		err  error
	}
	first := make(chan line, 1)
	c.reading++
	go func() { // ends with the process; close waits for it
		r := bufio.NewReader(p.Out)
		text, err := r.ReadBytes('\n')
		first <- line{text, err}
		_, _ = io.Copy(io.Discard, r)
		c.readers <- struct{}{}
	}()
	t := time.NewTimer(startTimeout)
	defer t.Stop()
	var got line
	select {
	case got = <-first:
	case <-t.C:
		got.err = errors.New("it took too long")
	case <-ctx.Done():
		got.err = ctx.Err()
	}
	var a control.Announcement
	if got.err == nil {
		got.err = json.Unmarshal(got.text, &a)
	}
	if got.err != nil {
		p.Stop(stopTimeout)
		return nil, fmt.Errorf("%w: %s of %s: %w: %s", control.ErrNotReady, name, c.peer.Name, got.err, strings.TrimSpace(p.Stderr()))
	}
	return &server{Process: p, control: control.Client{URL: a.Control}, url: a.URL}, nil
}

// prepare starts the client processes: a fleet for each node, with its share of the users.
func (c *cluster) prepare() error {
	per := max(c.cfg.PerProcess, 1)
	for i, n := range c.nodes {
		first, end := c.share(i)
		o := load.Options{
			URL: n.url, Conns: end - first, First: first, Run: c.run, Ready: c.s.Ready, Auth: c.peer.auth,
			InFlight: max(128/len(c.nodes), 1), Source: c.run*64 + uint32(i)*8,
			SlowEvery: c.s.SlowEvery, ChurnEvery: c.s.ChurnEvery,
			Life: time.Duration(c.s.Life), Away: time.Duration(c.s.Away),
		}
		f, err := load.NewFleet(o, per, func() (load.Process, error) {
			p, err := c.group.Start("load", c.cfg.Self, []string{"worker"}, nil)
			if err != nil {
				return load.Process{}, err
			}
			c.loaders = append(c.loaders, p.PID)
			return load.Process{In: p.In, Out: p.Out, End: func() { p.Wait(stopTimeout) }}, nil
		})
		if err != nil {
			return err
		}
		c.fleets = append(c.fleets, f)
	}
	return nil
}

// share is the range of users that node i has.
func (c *cluster) share(i int) (first, end int) {
	n := len(c.nodes)
	return c.s.Conns * i / n, c.s.Conns * (i + 1) / n
}

// grow connects clients until there are total, on all nodes at the same time.
func (c *cluster) grow(ctx context.Context, total int) error {
	errs := make(chan error, len(c.fleets))
	for i, f := range c.fleets {
		n := total*(i+1)/len(c.fleets) - total*i/len(c.fleets)
		go func() { errs <- f.Grow(ctx, n) }() // waited for below
	}
	var all error
	for range c.fleets {
		all = errors.Join(all, <-errs)
	}
	return all
}

func (c *cluster) snapshot() (s load.Snapshot) {
	for _, f := range c.fleets {
		s.Add(f.Snapshot())
	}
	return s
}

// settle waits until n connections are known to the server itself, or a moment has passed.
func (c *cluster) settle(ctx context.Context) error {
	return clock.Sleep(ctx, clock.Now()+int64(300*time.Millisecond))
}

// processes are those whose CPU counts, by name.
func (c *cluster) processes() map[string]int {
	m := map[string]int{}
	for _, n := range c.nodes {
		m[n.Name] = n.PID
	}
	if c.emitter != c.nodes[0] {
		m[c.emitter.Name] = c.emitter.PID
	}
	if c.broker != nil {
		m[c.broker.Name] = c.broker.PID
	}
	return m
}

// close ends everything, clients first, and waits for it.
func (c *cluster) close() {
	for _, f := range c.fleets {
		f.Close()
	}
	if c.emitter != nil && len(c.nodes) > 0 && c.emitter != c.nodes[0] {
		c.emitter.Wait(stopTimeout)
	}
	for _, n := range c.nodes {
		n.Wait(stopTimeout)
	}
	if c.broker != nil {
		c.broker.Stop(stopTimeout)
	}
	for range c.reading {
		<-c.readers
	}
	c.group.Close()
}

// diagnose adds to err what the servers wrote to their standard error.
func (c *cluster) diagnose(err error) error {
	for _, n := range c.nodes {
		if text := strings.TrimSpace(n.Stderr()); text != "" {
			err = fmt.Errorf("%w\n%s of %s says: %s", err, n.Name, c.peer.Name, text)
		}
	}
	return err
}

// Executable is this program, for starting it again.
func Executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("runner: %w", err)
	}
	return path, nil
}
