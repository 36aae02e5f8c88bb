// Types writes what the pages know of the events: go run ./examples/typed/types > examples/typed/web/events.ts
package main

import (
	"tether/examples/typed/events"
	"tether/types"
)

func main() {
	types.Main(types.Events{
		Server: events.ServerToClient,
		Client: events.ClientToServer,
	})
}
