package transport

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tether/internal/deptest"
)

func TestTheTransportDependsOnNoDriver(t *testing.T) {
	deptest.Forbid(t, "tether/transport", map[string]string{
		"tether/broker/redis":   "the transport knows the hub only",
		"tether/broker/nats":    "the transport knows the hub only",
		"tether/broker/drivers": "the transport knows the hub only",
	})
	deptest.Only(t, "tether/transport", "tether", "github.com/lxzan/gws", "github.com/klauspost/compress", "github.com/dolthub/maphash", "golang.org/x")
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
