package simbroker_test

import (
	"testing"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/internal/simbroker"
)

func TestBrokerContract(t *testing.T) {
	backend := simbroker.New(simbroker.Options{Calm: true})
	brokertest.Run(t, brokertest.Harness{
		New:   func(testing.TB) broker.Broker { return backend.Open("node") },
		Stop:  func(testing.TB) { backend.Stop() },
		Start: func(testing.TB) { backend.Start() },
		Freezable: func(testing.TB) (broker.Broker, func(), func()) {
			p := backend.Open("frozen")
			return p, p.Silence, p.Heal
		},
	})
}
