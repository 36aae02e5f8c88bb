package memory_test

import (
	"testing"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/memory"
)

func harness() brokertest.Harness {
	bus := memory.NewBus()
	return brokertest.Harness{New: func(testing.TB) broker.Broker { return bus.Broker() }}
}

func TestBrokerContract(t *testing.T) { brokertest.Run(t, harness()) }

func BenchmarkBroker(b *testing.B) { brokertest.Benchmark(b, harness()) }
