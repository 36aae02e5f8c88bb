package server

import (
	"context"
	"reflect"
	"strings"
	"time"
)

func (a *api) stats(context.Context, []byte) (any, error) {
	now := a.hub.Stats()
	var hooks figures
	if a.hooks != nil {
		hooks = figuresOf(a.hooks.Stats())
	}
	return struct {
		Node          string  `json:"node"`
		UptimeSeconds int64   `json:"uptimeSeconds"`
		Connections   int     `json:"connections"` // what autoscaling looks at
		Hub           figures `json:"hub"`
		Transport     figures `json:"transport"`
		Webhook       figures `json:"webhook,omitempty"`
	}{a.hub.Node(), int64(time.Since(a.started) / time.Second), now.Connections, figuresOf(now), figuresOf(a.sockets.Stats()), hooks}, nil
}

type figures map[string]any

// figuresOf are the fields of a struct, also of one in it, with names as JSON has them.
func figuresOf(stats any) figures {
	v, out := reflect.ValueOf(stats), figures{}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		value := v.Field(i).Interface()
		if v.Field(i).Kind() == reflect.Struct {
			value = figuresOf(value)
		}
		out[strings.ToLower(name[:1])+name[1:]] = value
	}
	return out
}
