package nats

import "tether/broker"

// Drop has a broker believe that nats.go has dropped messages.
func Drop(b broker.Broker) { b.(*Broker).dropped.Add(1) }
