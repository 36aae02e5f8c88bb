package tracing_test

import (
	"context"
	"log"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"tether/broker/memory"
	"tether/hub"
	"tether/tracing"
)

func Example() {
	provider := sdk.NewTracerProvider() // with an exporter
	tracer, err := tracing.New(tracing.Options{Provider: provider, Every: 100})
	if err != nil {
		log.Fatal(err)
	}
	h, err := hub.New(memory.NewBus().Broker(), hub.Options{Tracers: []hub.Tracer{tracer}})
	if err != nil {
		log.Fatal(err)
	}
	err = h.Run(context.Background())
	tracer.Close()
	if err := provider.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	if err != nil {
		log.Fatal(err)
	}
}
