package conformance

import (
	"context"

	"tether/hub"
)

// installCluster gives ns the events that look at, or act on, more than the socket's own node.
func installCluster(h *hub.Hub, ns *hub.Namespace) {
	ns.On("node", func(_ context.Context, _ *hub.Socket, m *hub.Message) error { return m.Ack(h.Node()) })
	ns.On("cluster-disconnect", func(ctx context.Context, _ *hub.Socket, m *hub.Message) error {
		room, err := roomAt(m, 0)
		if err != nil {
			return err
		}
		var closing bool
		if err := m.Decode(1, &closing); err != nil {
			return err
		}
		for _, to := range targets(room) {
			if _, err := ns.Emitter().Disconnect(ctx, to, closing); err != nil {
				return err
			}
		}
		return nil
	})
}
