package broker_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"tether/broker"
)

func mux(err error) broker.Mux {
	open := func(context.Context, *url.URL) (broker.Broker, error) { return nil, err }
	return broker.Mux{"redis": open, "nats": open}
}

func TestMuxListsTheSchemesThatItKnows(t *testing.T) {
	_, err := mux(nil).Open(t.Context(), "kafka://localhost")
	want := `broker: unknown scheme "kafka"; known are nats://, redis://`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestMuxErrorsCarryNoPassword(t *testing.T) {
	for _, raw := range []string{
		"redis://user:hunter2@local host:6379",
		"redis://user:hun%zzter2@localhost",
		"redis://user:hunter2@localhost:port",
		"redis://user:hunter2@[::1",
		"\x7fredis://user:hunter2@localhost",
		"redis://user:hunter2@localhost?password=hunter2",
		"user:hunter2@localhost",
		"redis://user:hun,ter2/@localhost",
		"redis://user:hunter2@a:1,b,c\x00:2",
		"redis://user@a:hun,ter2/@localhost",
	} {
		_, err := mux(errors.New("connection refused")).Open(t.Context(), raw)
		if err == nil {
			t.Errorf("%q: no error", raw)
		} else if strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%q: error shows the password: %v", raw, err)
		}
	}
}

func TestAURLMayHaveSeveralHosts(t *testing.T) {
	for _, hosts := range []string{"a,b", "a:1,b,c", "a,b:2", "[::1]:1,[::2]:2", "a:1,b:2"} {
		var got *url.URL
		open := func(_ context.Context, u *url.URL) (broker.Broker, error) { got = u; return nil, nil }
		if _, err := (broker.Mux{"redis+cluster": open}).Open(t.Context(), "redis+cluster://u:p,w@"+hosts+"/x?y=1,2"); err != nil {
			t.Errorf("%s: %v", hosts, err)
			continue
		}
		if password, _ := got.User.Password(); got.Host != hosts || password != "p,w" || got.Path != "/x" || got.RawQuery != "y=1,2" {
			t.Errorf("%s: got %s, %s, %s, %s", hosts, got.Host, got.User, got.Path, got.RawQuery)
		}
	}
}

func TestMuxSaysWhatItCouldNotOpen(t *testing.T) {
	cause := errors.New("connection refused")
	_, err := mux(cause).Open(t.Context(), "redis://:secret@localhost:6379")
	if !errors.Is(err, cause) || err.Error() != "broker: open redis://localhost:6379: connection refused" {
		t.Errorf("got %v", err)
	}
}

func TestReachIsNobodyOnlyForCertain(t *testing.T) {
	for reach, want := range map[broker.Receipt]bool{
		{}:                                true,
		{Nodes: 1}:                        false,
		{Bound: broker.AtLeast}:           true,
		{Nodes: 1, Bound: broker.AtLeast}: false,
		{Bound: broker.Unknown}:           false,
	} {
		if got := reach.Nobody(); got != want {
			t.Errorf("%+v: got %v, want %v", reach, got, want)
		}
	}
}
