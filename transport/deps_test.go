package transport

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tether/internal/deptest"
)

func TestTheTransportKnowsNeitherHubNorBroker(t *testing.T) {
	deptest.Forbid(t, "tether/transport", map[string]string{
		"tether/hub":    "a hub is attached to the transport, through the engine",
		"tether/broker": "what reaches other nodes is the hub's business",
	})
	deptest.Only(t, "tether/transport", "tether/engine", "tether/internal/socketio", "tether/internal/group", "tether/internal/budget", "tether/internal/probe", "github.com/lxzan/gws", "github.com/klauspost/compress", "github.com/dolthub/maphash", "golang.org/x")
}

func TestOneFileKnowsTheWebSocketLibrary(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\t\"github.com/lxzan/gws"+"\"\n") && name != "gws.go" {
			t.Errorf("%s imports the WebSocket library; gws.go is the file for it", name)
		}
	}
}
