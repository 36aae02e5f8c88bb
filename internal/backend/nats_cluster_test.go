package backend

import "testing"

func TestAClusterIsWholeAgainAfterTheReturnOfAServer(t *testing.T) {
	for kind, get := range map[string]func(testing.TB, int, NATSRoutes) []*Server{
		"Found": NATSCluster, "StandIn": NATSClusterStandIn,
	} {
		t.Run(kind, func(t *testing.T) {
			servers := get(t, 3, NATSRoutes{})
			servers[1].Restart()
			AwaitRoutes(t, servers...)
		})
	}
}
