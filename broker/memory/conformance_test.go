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

func TestLogContract(t *testing.T) {
	buses := make(map[broker.LogOptions]*memory.Bus)
	brokertest.RunLog(t, func(_ *testing.T, o broker.LogOptions) broker.Broker {
		if buses[o] == nil {
			if buses[o] = memory.NewLoggedBus(o); o.Age == 0 {
				buses[o] = memory.NewBus()
			}
		}
		return buses[o].Broker()
	})
}
