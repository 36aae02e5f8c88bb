// Package runner runs scenarios: it starts servers, brokers and clients in processes of their own,
// makes them work, and measures them from outside.
package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Peer is a kind of server that scenarios can be run on.
type Peer struct {
	Name  string
	About string

	serve func(c commands) (path string, args []string) // a node
	emit  func(c commands) (path string, args []string) // a process that only emits

	auth      string // what clients say, see load.Options; "": who they are
	oneLane   bool   // concurrent emits make no sense
	limit     bool   // a yardstick, measured where a scenario names it
	redisOnly bool   // it knows no other broker
}

// commands is what the command line of a process is made of.
type commands struct {
	self    string // this program
	nodeDir string // of server.mjs
	broker  string // URL, empty for none
	index   int    // of the node
	nodes   int
	users   int
}

func self(server string, extra ...string) func(commands) (string, []string) {
	return func(c commands) (string, []string) {
		args := append([]string{"serve", "-stdin", "-server", server}, extra...)
		if c.broker != "" {
			args = append(args, "-broker", c.broker)
		}
		return c.self, append(args, "-node", strconv.Itoa(c.index), "-nodes", strconv.Itoa(c.nodes), "-users", strconv.Itoa(c.users))
	}
}

func node(extra ...string) func(commands) (string, []string) {
	return func(c commands) (string, []string) {
		args := append([]string{"--expose-gc", filepath.Join(c.nodeDir, "server.mjs")}, extra...)
		if c.broker != "" {
			args = append(args, "--redis", c.broker)
		}
		return "node", args
	}
}

// Peers are all kinds.
var Peers = []Peer{
	{Name: "hub", About: "our hub, portable carrier", serve: self("hub"), emit: self("emitter")},
	{Name: "hub-epoll", About: "our hub, epoll carrier", serve: self("hub-epoll"), emit: self("emitter")},
	{Name: "hub-recovery", About: "our hub with recovery on, and clients that ask for it", serve: self("hub-recovery"), emit: self("emitter"), auth: `{"user":"{user}","recovery":true}`},
	{Name: "hub-unasked", About: "our hub with recovery on, and clients that do not ask for it", serve: self("hub-recovery"), emit: self("emitter")},
	{Name: "phys", About: "the physical limit: a loop of write or writev", serve: self("phys"), limit: true, oneLane: true},
	{Name: "floor", About: "the physical limit behind a bare broker: a subject for each node", serve: self("floor"), emit: self("floor-emitter"), limit: true, oneLane: true},
	{Name: "bare", About: "the same with a subject for each user, as our hub has it", serve: self("bare"), emit: self("bare-emitter"), oneLane: true},
	{Name: "node", About: "Socket.IO on Node, a user is a room", serve: node(), emit: node("--emitter"), redisOnly: true},
	{Name: "psychic", About: "Socket.IO on Node, registering and emitting as Psychic does", serve: node("--psychic"), emit: node("--emitter", "--psychic"), redisOnly: true},
}

// PeerOf finds a kind by its name.
func PeerOf(name string) (Peer, error) {
	for _, p := range Peers {
		if p.Name == name {
			return p, nil
		}
	}
	return Peer{}, fmt.Errorf("runner: no server is called %q; bench run -list shows all", name)
}

// Available says why a peer cannot be measured here, nil when it can.
func (p Peer) Available(nodeDir string) error {
	if p.Name != "node" && p.Name != "psychic" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(nodeDir, "node_modules", "socket.io")); err != nil {
		return fmt.Errorf("runner: %s needs node and its modules: run npm ci in %s", p.Name, nodeDir)
	}
	return nil
}
