package conformance

import (
	"encoding/json"
	"testing"

	"tether/cluster"
	"tether/hub"
	"tether/presence"
)

// TestAUserIsNotSaidToBeOfflineWhileNodesAreMissing: it is not known then.
func TestAUserIsNotSaidToBeOfflineWhileNodesAreMissing(t *testing.T) {
	away := presence.Status{User: hub.User("42")}
	here := presence.Status{User: hub.User("42"), Devices: []presence.Device{{Node: cluster.Member{Name: "A"}, Transport: "websocket"}}}
	for _, c := range []struct {
		of   presence.Status
		all  bool
		want string
	}{
		{away, true, `{"online":false,"devices":[]}`},
		{away, false, `{"online":null,"devices":[]}`},
		{here, true, `{"online":true,"devices":[{"node":"A","transport":"websocket"}]}`},
		{here, false, `{"online":true,"devices":[{"node":"A","transport":"websocket"}]}`},
	} {
		if got, err := json.Marshal(presenceIn(c.of, c.all)); err != nil || string(got) != c.want {
			t.Errorf("got %s (%v), want %s", got, err, c.want)
		}
	}
}
