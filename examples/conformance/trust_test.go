package main

import (
	"net/http"
	"strings"
	"testing"

	"tether/broker/seal"
	"tether/internal/backend"
)

func TestNodesWithAKeyUnderstandEachOther(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]*backend.Server{"redis": backend.Redis(t), "nats": backend.NATS(t)} {
		for _, seal := range [][]string{{}, {"-seal"}} {
			t.Run(name+strings.Join(seal, ""), func(t *testing.T) {
				t.Parallel()
				flags := append([]string{"-broker", server.URL, "-key", newKey()}, seal...)
				a, b := start(t, append(flags, "-node", "A")...), start(t, append(flags, "-node", "B")...)
				stranger := start(t, "-broker", server.URL, "-node", "C", "-key", newKey())
				awaitMembers(t, a, true)
				c, _ := connect(t, a)
				c.Send(`421["join","r"]`)
				c.Want(`431["ok"]`)
				for _, url := range []string{stranger, b} {
					res, err := http.Post(url+"/emit", "application/json", strings.NewReader(`{"room":"r","event":"from `+url+`"}`))
					if err != nil {
						t.Fatal(err)
					}
					res.Body.Close()
				}
				c.Want(`42["from ` + b + `"]`) // and nothing of the stranger's before it
				c.Send(`422["server-side","x"]`)
				c.Want(`432[["B:x"]]`)
			})
		}
	}
}

func newKey() string { return seal.GenerateKey().Encode() }

func TestAKeyThatIsNoneIsAMistake(t *testing.T) {
	for _, args := range [][]string{{"-key", "abc"}, {"-seal"}} {
		if err := runAtOnce(t.Context(), append(args, "-addr", "127.0.0.1:0"), t.Output(), t.Output()); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
