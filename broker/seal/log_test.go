package seal_test

import (
	"errors"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/memory"
	"tether/broker/seal"
)

func TestLogContractWithAKey(t *testing.T) {
	keys := seal.Keys{Current: seal.GenerateKey(), Seal: true}
	buses := make(map[broker.LogOptions]*memory.Bus)
	brokertest.RunLog(t, func(_ *testing.T, o broker.LogOptions) broker.Broker {
		if buses[o] == nil {
			if buses[o] = memory.NewLoggedBus(o); o.Age == 0 {
				buses[o] = memory.NewBus()
			}
		}
		return seal.New(buses[o].Broker(), seal.Options{Keys: keys})
	})
}

func TestWhatAStrangerKeepsInTheLogIsNothing(t *testing.T) {
	bus := memory.NewLoggedBus(broker.LogOptions{Age: time.Minute})
	key := seal.GenerateKey()
	open := func(k seal.Keys) (broker.Broker, broker.Log) {
		b := seal.New(bus.Broker(), seal.Options{Keys: k})
		t.Cleanup(func() { b.Close() })
		l, err := b.Log()
		if err != nil {
			t.Fatal(err)
		}
		return b, l
	}
	own, log := open(seal.Keys{Current: key})
	ctx := t.Context()
	start, err := log.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m := broker.Message{Subject: "x", Data: []byte("own"), Log: "x", Place: 1}
	if _, err := own.Publish(ctx, m); err != nil {
		t.Fatal(err)
	}
	record := broker.Record{Owner: "a", Version: 7, Value: []byte("own")}
	if _, err := log.Save(ctx, "k", "", record); err != nil {
		t.Fatal(err)
	}
	part := []broker.Part{{Log: "x", After: start}}
	if msgs, _, err := log.Read(ctx, part); err != nil || len(msgs) != 1 || string(msgs[0].Data) != "own" {
		t.Errorf("own: %v, %v", msgs, err)
	}
	raw := bus.Broker() // a stranger's
	defer raw.Close()
	rawLog, err := raw.(broker.Logger).Log()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := rawLog.Load(ctx, "k")
	if err != nil || kept.Owner != "a" {
		t.Fatalf("%+v, %v", kept, err)
	}
	for name, put := range map[string]func(l broker.Log) error{
		"the record of another session": func(l broker.Log) error { _, err := l.Save(ctx, "other", "", kept); return err },
		"one of another version": func(l broker.Log) error {
			kept := kept
			kept.Version++
			_, err := l.Save(ctx, "other", "", kept)
			return err
		},
		"a plain one": func(l broker.Log) error { _, err := l.Save(ctx, "other", "", record); return err },
	} {
		if err := put(rawLog); err != nil {
			t.Fatal(err)
		}
		if r, err := log.Load(ctx, "other"); err != nil || r.Owner != "" {
			t.Errorf("%s is taken: %+v, %v", name, r, err)
		}
		if err := rawLog.Drop(ctx, "other", "a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := raw.Publish(ctx, m); err != nil {
		t.Fatal(err)
	}
	if msgs, _, err := log.Read(ctx, part); !errors.Is(err, broker.ErrForgotten) {
		t.Errorf("with a message of a stranger: %v, %v", msgs, err)
	}
}

func TestADriverWithoutALogSaysSo(t *testing.T) {
	b := seal.New(struct{ broker.Broker }{memory.NewBus().Broker()}, seal.Options{})
	defer b.Close()
	if _, err := b.Log(); !errors.Is(err, broker.ErrNoLog) {
		t.Errorf("Log: %v", err)
	}
}
