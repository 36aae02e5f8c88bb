package docs

import (
	"tether/broker"
	"tether/broker/seal"
	"tether/hub"
)

// The code of trust.md.

func init() { guides = append(guides, "trust.md") }

func withAKey(b, worker broker.Broker, key seal.Key) (*hub.Hub, *hub.Emitter, error) {
	h, err := hub.New(b, hub.Options{
		Key: seal.Keys{Current: key, Seal: true},
	})
	emitter := hub.NewEmitter(worker, hub.EmitterOptions{
		Key: seal.Keys{Current: key, Seal: true},
	})
	return h, emitter, err
}

var _ = []any{withAKey}
