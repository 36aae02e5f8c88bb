package main

import (
	"net/http"

	"tether/hub"
	"tether/transport"
)

// echoEngine accepts an Engine.IO session that gets back what it sends.
func echoEngine(c hub.Conn, _ *http.Request) (transport.Receiver, error) { return engineEcho{c}, nil }

type engineEcho struct{ conn hub.Conn }

func (e engineEcho) Text(data []byte) error {
	return e.conn.Send(hub.NewPacket(append([]byte{'4'}, data...), nil, false), nil)
}

func (e engineEcho) Binary(data []byte) error {
	return e.conn.Send(hub.NewPacket(nil, [][]byte{data}, false), nil)
}

func (engineEcho) Busy() <-chan struct{} { return nil }

func (engineEcho) Closed(hub.Reason) {}
