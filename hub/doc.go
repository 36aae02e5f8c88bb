// Package hub is a Socket.IO server without the transport: namespaces, sockets, rooms, events and
// acknowledgements (Socket.IO protocol 5), on as many nodes as a broker connects.
//
// # A server
//
// A program opens a broker, makes a [Hub] on it, gives its namespaces handlers, runs it, and mounts a
// transport, which attaches connections:
//
//	b := memory.NewBus().Broker()
//	h, err := hub.New(b, hub.Options{})
//	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
//		user, err := authenticate(s.Handshake().Auth)
//		if err != nil {
//			return hub.Refuse("unauthorized", nil)
//		}
//		return s.Register(ctx, user)
//	})
//	sockets, err := transport.NewHandler(h, transport.Options{})
//	mux.Handle("/socket.io/", sockets)
//	return sockets.Serve(ctx, listener, mux, h, transport.ServeOptions{}) // runs h, too
//
// Any process with the same broker then reaches the user, wherever and on however many devices:
//
//	e := hub.NewEmitter(b, hub.EmitterOptions{})
//	receipt, err := e.Emit(ctx, hub.User("42"), "/users/ping", v)
//	if err == nil && receipt.Nobody() {
//		// offline, for certain
//	}
//
// # Routing
//
// A node subscribes to the rooms that its sockets are in, and to nothing else. There is no list of sockets
// and nodes that could be wrong: when a node dies, its subscriptions die with it. [Socket.Join], and with it [Socket.Register], returns when the subscription is live, and the
// client is told that it is connected after its connect hooks have returned: a client that knows that
// it is connected cannot miss an event that is emitted from then on. What is for one socket goes to
// that socket's node, which its ID names, and needs no subscription of its own.
//
// An event is encoded once, by the emitter. The nodes look at no JSON, and all sockets of a node share
// one packet.
//
// # Guarantees
//
// Delivery is at most once. Within that:
//
//   - Events that one [Emitter]'s process emits to one room, in order, arrive in that order at each
//     socket of the room. So do those that one goroutine emits with [Socket.Emit]. Between different
//     rooms, and between the two ways, there is no order.
//   - Everything goes through the broker, also to sockets of the emitter's own node, except what is
//     emitted by a socket itself or by an emitter that is [Emitter.Local].
//   - The events of one connection are handled one at a time, in the order in which the client sent
//     them. Answers are not events: a handler may wait for one.
//   - What is emitted to a socket while its connect hooks run waits, and leaves after the answer to
//     CONNECT, in order.
//   - OnDisconnect runs once for each socket that was connected, after its last event.
//   - A time in which messages of the broker may have been missed is reported: Options.OnGap.
//   - A node that was frozen for more than about two seconds drops its connections when it wakes:
//     it may have missed what the broker counted as taken.
//
// # Concurrency
//
// All methods of all types may be called concurrently, except where they say otherwise. Handlers run
// on goroutines that [Hub.Run] waits for. No lock is held while a handler or an [engine.Conn] is called. A
// panic of a handler closes the connection that it was handling, and no other. A client's mistake
// in the protocol closes its connection, and no mistake of a client is logged above debug level.
//
// # Shutdown
//
// There is one order, which transport.Handler.Serve keeps. When the context of [Hub.Run] is done,
// [Hub.Attach] refuses, connections are closed evenly over Options.DrainWindow, handlers are waited for, the
// subscriptions end, the broker's Run ends, and Hub.Run returns. Then the HTTP server is shut down, the
// transport is closed, and the caller closes the broker.
package hub
