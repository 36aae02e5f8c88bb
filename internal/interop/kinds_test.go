package interop

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"tether/internal/long"
)

// kind is a client library.
type kind struct {
	name  string
	start func() (*driver, error)

	js     bool // npm's: it names reasons, shares connections, tells of upgrades, and can leave a question unanswered
	active bool // its sockets know that they were refused
}

var kinds = []*kind{
	{name: "npm 4.8.3", js: true, active: true, start: func() (*driver, error) { return startNode("socket.io-client") }},
	{name: "npm 3.1.3", js: true, start: func() (*driver, error) { return startNode("socket.io-client-3") }},
	{name: "python", start: func() (*driver, error) { return startPython("sync") }},
	{name: "python async", start: func() (*driver, error) { return startPython("async") }},
}

// nodeModules is the folder with the npm packages of package.json: $TETHER_NODE_MODULES, or
// node_modules beside it, where "npm ci" puts them.
func nodeModules() (string, error) {
	dir := os.Getenv("TETHER_NODE_MODULES")
	if dir == "" {
		dir = "node_modules"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"socket.io-client", "socket.io-client-3"} {
		if _, err := os.Stat(filepath.Join(dir, name, "package.json")); err != nil {
			return "", fmt.Errorf("npm package %s is missing: run npm ci in internal/interop, or set TETHER_NODE_MODULES", name)
		}
	}
	return dir, nil
}

func startNode(pkg string) (*driver, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	modules, err := nodeModules()
	if err != nil {
		return nil, err
	}
	return startDriver(node, []string{"client.js", pkg}, "NODE_PATH="+modules)
}

// startPython uses the system's Python, which has the distribution's packages.
func startPython(mode string) (*driver, error) {
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		return nil, err
	}
	if err := exec.Command(python, "-c", "import socketio, requests, websocket, aiohttp").Run(); err != nil {
		return nil, errors.New("the system's Python lacks python3-socketio, python3-requests, python3-websocket or python3-aiohttp")
	}
	return startDriver(python, []string{"client.py", mode})
}

// fleet starts drivers when they are first needed, one of a kind.
type fleet struct {
	mu      sync.Mutex
	drivers map[*kind]*driver // guarded by mu
	errs    map[*kind]error   // guarded by mu
}

// drivers serve all tests of the package; TestMain closes them.
var drivers = &fleet{drivers: map[*kind]*driver{}, errs: map[*kind]error{}}

func TestMain(m *testing.M) {
	long.Parallel(4)
	before := runtime.NumGoroutine()
	code := m.Run()
	drivers.close()
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); code == 0 && n > before && flag.Lookup("test.fuzz").Value.String() == "" {
		fmt.Fprintf(os.Stderr, "%d goroutines are left\n", n-before)
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		code = 1
	}
	os.Exit(code)
}

func (f *fleet) get(k *kind) (*driver, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drivers[k] == nil && f.errs[k] == nil {
		f.drivers[k], f.errs[k] = k.start()
	}
	return f.drivers[k], f.errs[k]
}

func (f *fleet) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.drivers {
		if d != nil {
			d.close()
		}
	}
}

// need skips the test, or fails it where all real parts are required, if err is not nil.
func need(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// way is a client library together with the transports it may use.
type way struct {
	*kind
	d          *driver
	transports string // "default", "websocket" or "polling"
}

var allTransports = []string{"default", "websocket", "polling"}

// everyWay runs a test with every library over every transport.
func everyWay(t *testing.T, test func(t *testing.T, w way)) {
	someWays(t, func(*kind) bool { return true }, allTransports, test)
}

// everyJS runs a test with npm's libraries over every transport.
func everyJS(t *testing.T, test func(t *testing.T, w way)) {
	someWays(t, func(k *kind) bool { return k.js }, allTransports, test)
}

func someWays(t *testing.T, which func(*kind) bool, transports []string, test func(t *testing.T, w way)) {
	for _, k := range long.Or([]*kind{kinds[0], kinds[2]}, kinds) {
		if !which(k) {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			d, err := drivers.get(k)
			need(t, err)
			for _, transport := range transports {
				t.Run(transport, func(t *testing.T) { test(t, way{kind: k, d: d, transports: transport}) })
			}
		})
	}
}

// options are the client's options for its transports, and more.
func (w way) options(more map[string]any) map[string]any {
	o := map[string]any{}
	if w.transports != "default" {
		o["transports"] = []string{w.transports}
	}
	for k, v := range more {
		o[k] = v
	}
	return o
}

// dial makes a client connect to a node.
func (w way) dial(t testing.TB, n *node, namespace string, options map[string]any) *client {
	t.Helper()
	return w.d.dial(t, n.url, namespace, w.options(options))
}

// join connects a client to the main namespace of a node and takes its welcome. The ID is that of its
// socket.
func (w way) join(t testing.TB, n *node) (c *client, id string) {
	t.Helper()
	c = w.dial(t, n, "", nil)
	id = c.on(t, "connect").SID
	w.welcome(t, c, n, id)
	return c, id
}

func (w way) welcome(t testing.TB, c *client, n *node, id string) {
	t.Helper()
	c.event(t, "welcome", map[string]any{"id": id, "auth": map[string]any{}, "node": n.hub.Node()})
}
