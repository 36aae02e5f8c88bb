package main

import (
	"net/http"

	"tether/engine"
)

// echoEngine accepts an Engine.IO session that gets back what it sends.
func echoEngine(c engine.Conn, _ *http.Request) (engine.Receiver, error) { return engineEcho{c}, nil }

type engineEcho struct{ conn engine.Conn }

func (e engineEcho) Text(data []byte) error {
	return e.conn.Send(engine.NewPacket(engine.Terms{}, append([]byte{'4'}, data...)), nil)
}

func (e engineEcho) Binary(data []byte) error {
	return e.conn.Send(engine.NewPacket(engine.Terms{}, nil, data), nil)
}

func (engineEcho) Busy() <-chan struct{} { return nil }

func (engineEcho) Closed(engine.Reason) {}
