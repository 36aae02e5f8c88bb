// Package hubtest runs an application's hub inside its tests, as net/http/httptest runs a handler: the
// application's own set-up, unchanged, on one node or several, with clients that need no sockets.
//
//	func TestAPingReachesItsUser(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			node := hubtest.Start(t, newHub)               // func(broker.Broker) (*hub.Hub, error)
//			alice := node.Connect(map[string]string{"token": tokenOf("alice")})
//			node.Hub.Emitter().Emit(t.Context(), hub.User("alice"), "/users/ping", Ping{From: "bob"})
//			alice.Expect("/users/ping", Ping{From: "bob"})
//			alice.Refute("/users/ping")                    // only once
//		})
//	}
//
// Nothing opens a port, and a test takes well under a millisecond. When a test ends, its clients go, its nodes
// drain, and all goroutines have ended.
//
// # Time
//
// In a bubble of testing/synctest, as above, time is virtual: a token expires, a silent client is given up and
// a drain ends while no time passes, and [Client.Refute] knows at once that nothing is on its way. Outside of
// a bubble everything works too, in real time; there Refute has to wait for a moment.
//
// # Failures
//
// What does not come within [Patience] fails the test, with a list of what came instead, and of the places in
// which the nearest event differs. All calls that can fail the test are for its own goroutine, as t.Fatal is.
//
// Nodes and their links fail when they are told to: see [Node.Kill], [Node.Silence], [Node.Cut],
// [Cluster.StopBroker], [Client.Vanish] and [Client.StopReading]. A client comes back with [Client.ComeBack], on any node.
package hubtest
