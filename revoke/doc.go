// Package revoke puts users and tokens out, on all nodes and at once: their sockets end, and they are not let in
// again, wherever they try.
//
//	list, err := revoke.New(h, revoke.Options{Lifetime: 12 * time.Hour}) // as long as a token is good
//	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
//		claims, err := verify(s.Handshake().Auth)
//		if err != nil {
//			return hub.Refuse("unauthorized", nil)
//		}
//		return list.Register(ctx, s, revoke.Token{User: hub.User(claims.Subject), ID: claims.ID, Issued: claims.IssuedAt})
//	})
//
//	changed, err := list.Revoke(ctx, revoke.Rule{User: hub.User("42")}) // or [Everywhere], without a hub
//
// # What holds when Revoke returns
//
// On each node in Changed.Nodes the sockets that the rule is about have been told to go, and Changed.Sockets
// says how many they were on all of them. From then on these nodes let nobody in with such a token. That is so
// for connects in flight, too: a socket whose connect hooks are still running is refused. Of the nodes in
// Changed.Missing it is not known.
//
// A node that starts lets nobody in before it has asked all nodes that it can see for their rules. Until
// then Register waits. A node that has missed a rule, because it was cut off or did not answer in time, asks
// for it within three seconds of hearing a node that has it, and ends what it has let in meanwhile.
//
// # How long, and where
//
// A rule is remembered for Options.Lifetime, in the memory of all nodes. It outlives every node, but not all of
// them: a cluster that is stopped as a whole forgets its rules. There are Options.Max rules at most.
// A node that has no room for one more ends the sockets all the same, and is named as missing with
// ErrFull.
package revoke
