// Package presence knows which users are online, and who is in a room, on all nodes, without storage.
//
//	p, err := presence.New(h, presence.Options{OnChange: func(ctx context.Context, e presence.Event) {
//		log.Print(e.User, e.Online)
//	}})
//
// It is made before [hub.Hub.Run] is called, which runs it too.
//
// [Online] asks all nodes which devices users have. Options.OnChange is told of the first device of a user and
// of the last: once for each change in the whole cluster, on one node, and in order for each user. Nothing is
// sent while nobody comes or goes, and a program that does not import the package pays nothing.
//
// A room shows who is in it: [Presence.Enter] puts a socket into a room under a name, with data of the
// application's. The sockets that [Presence.WatchRoom] was called for are sent who is there, and then what changes,
// once in an interval. [InRoom] asks.
//
// A device is a connected socket that [hub.Socket.Register] has made a user's. Users of two namespaces are
// different users, as everything in a namespace has nothing to do with that of another.
package presence
