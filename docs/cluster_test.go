package docs

import (
	"context"
	"log"

	"tether/broker"
	"tether/hub"
)

// The code of cluster.md.

func printMembers(h *hub.Hub) error {
	members, err := h.Members()
	for _, m := range members {
		log.Print(m.Name, m.Version, m.Address, m.Since, m.Connections, m.Draining)
	}
	return err
}

func fetch(ctx context.Context, emitter *hub.Emitter) error {
	found := emitter.FetchSockets(ctx, hub.Room("news"), hub.FetchOptions{Rooms: true, Data: true})
	for s := range found.All {
		log.Print(s.ID, s.Node.Name, s.Transport, s.Rooms, s.Data)
	}
	for _, m := range found.Missing() {
		log.Print(m.Node.Name, " is missing: ", m.Why)
	}
	return found.Err()
}

func joinAll(ctx context.Context, emitter *hub.Emitter) error {
	changed, err := emitter.Join(ctx, hub.User("42"), hub.Room("news"))
	if err != nil {
		return err // the question could not be put
	}
	log.Print(changed.Sockets, changed.Nodes, changed.Missing)
	return nil
}

func askRoom(ctx context.Context, emitter *hub.Emitter) error {
	asked := emitter.EmitAck(ctx, hub.Room("news"), "question", "ready?")
	for a := range asked.All {
		var answer string
		if a.Err == nil && a.Answer.Decode(0, &answer) == nil {
			log.Print(a.ID, answer)
		}
	}
	return asked.Err()
}

func askServers(ctx context.Context, h *hub.Hub, cacheSize func() int) error {
	h.Of("/").OnServerSide("cache-size", func(ctx context.Context, m *hub.Message) (any, error) {
		return cacheSize(), nil
	})

	answers := h.Emitter().ServerSideEmitAck(ctx, "cache-size")
	for a := range answers.All {
		log.Print(a.Node.Name, string(a.Value))
	}
	return answers.Err()
}

func workerThatAsks(ctx context.Context, b broker.Broker, ended chan error) *hub.Emitter {
	up := make(chan struct{})
	emitter := hub.NewEmitter(b, hub.EmitterOptions{})
	go func() { ended <- emitter.Run(ctx, func() { close(up) }) }()
	<-up
	return emitter
}

var _ = []any{printMembers, fetch, joinAll, askRoom, askServers, workerThatAsks}
