package hub

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker/memory"
)

func TestOptionsOutOfRangeAreErrors(t *testing.T) {
	for want, o := range map[string]Options{
		"ConnectTimeout is -1ns":    {ConnectTimeout: -1},
		"HookTimeout is -1s":        {HookTimeout: -time.Second},
		"AttachmentTimeout is -1ns": {AttachmentTimeout: -1},
		"Limits.Depth is 513":       {Limits: Limits{Depth: 513}},
		"Devices.Max is -1":         {Devices: Devices{Max: -1}},

		"Recovery.Window is -1ns":      {Recovery: Recovery{Window: -1}},
		"Recovery.SessionBytes is -1:": {Recovery: Recovery{On: true, SessionBytes: -1}},
		"Recovery.UserBytes is -1:":    {Recovery: Recovery{On: true, UserBytes: -1}},
		"Recovery.TotalBytes is -1:":   {Recovery: Recovery{On: true, TotalBytes: -1}},
		"Recovery.All is set":          {Recovery: Recovery{All: true}},
		"Recovery.Log is set":          {Recovery: Recovery{Log: true}},

		`reserved: "disconnect"`: {Events: []string{"a", "disconnect"}},
		`reserved: "connect"`:    {Greeting: Greeting{Event: "connect"}},
	} {
		if _, err := New(memory.NewBus().Broker(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	limits := reflect.TypeFor[Limits]()
	for i := range limits.NumField() {
		var o Options
		reflect.ValueOf(&o.Limits).Elem().Field(i).SetInt(-1)
		want := "Limits." + limits.Field(i).Name + " is -1"
		if _, err := New(memory.NewBus().Broker(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	least := Recovery{On: true, All: true, Window: 1, SessionBytes: 1, UserBytes: 1, TotalBytes: 1}
	if _, err := New(memory.NewBus().Broker(), Options{Recovery: least}); err != nil {
		t.Errorf("what is just in range is refused: %v", err)
	}
	_, err := New(memory.NewBus().Broker(), Options{HookTimeout: -1, Limits: Limits{Acks: -1}})
	if err == nil || !strings.Contains(err.Error(), "HookTimeout") || !strings.Contains(err.Error(), "Limits.Acks") {
		t.Errorf("got %v, which does not say all", err)
	}
}

func TestAHandlerThatCannotBeCalledPanicsAtOnce(t *testing.T) {
	h := alone(t, Options{})
	n := h.Of("/")
	for want, add := range map[string]func(){
		"Use":           func() { n.Use(nil) },
		"OnConnect":     func() { n.OnConnect(nil) },
		"OnDisconnect":  func() { n.OnDisconnect(nil) },
		"UseEvent":      func() { n.UseEvent(nil) },
		`On("x")`:       func() { n.On("x", nil) },
		"OnAny":         func() { n.OnAny(nil) },
		"OnAnyOutgoing": func() { n.OnAnyOutgoing(nil) },
		"Match":         func() { h.Match(nil) },
		`On("connect")`: func() { n.On("connect", func(context.Context, *Socket, *Message) error { return nil }) },
	} {
		said := func() (said any) {
			defer func() { said = recover() }()
			add()
			return nil
		}()
		if text, _ := said.(string); !strings.Contains(text, want) {
			t.Errorf("panics with %v, want %q in it", said, want)
		}
	}
}

// What an application has not asked to be quiet is to be seen: a hub without a logger logs to the default.
func TestFailuresAreLoggedByDefault(t *testing.T) {
	var log sharedBuffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	h := alone(t, Options{})
	done := make(chan struct{})
	h.Of("/").On("x", func(context.Context, *Socket, *Message) error { return errors.New("no such table") })
	h.Of("/").On("done", func(context.Context, *Socket, *Message) error { close(done); return nil })
	p, _ := connect(t, h)
	p.say(`2["x"]`, `2["done"]`)
	<-done
	if text := log.String(); !strings.Contains(text, "no such table") {
		t.Errorf("logged: %s", text)
	}
}

func TestAClientOfAHubThatDoesNotRunIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log sharedBuffer
		h, err := New(memory.NewBus().Broker(), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			p := dial(t, h)
			p.say("0")
			<-p.ended
		}
		if text := log.String(); strings.Count(text, "Hub.Run has not been called") != 1 {
			t.Errorf("logged: %s", text)
		}
	})
}
