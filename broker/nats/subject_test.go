package nats

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"tether/broker"
)

func TestSubjectsBecomeLegalNATSSubjects(t *testing.T) {
	n := newNames("tether", nil)
	for subject, want := range map[string]string{
		"user:42":                "tether.s.user:42",
		"a.b":                    "tether.s.a.b",
		"a..b":                   "tether.s.a.=2Eb",
		".a.":                    "tether.s.=2Ea=2E",
		".":                      "tether.s.=2E",
		"*":                      "tether.s.=2A",
		">":                      "tether.s.=3E",
		"a.*":                    "tether.s.a.=2A",
		"$SYS.x":                 "tether.s.=24SYS.x",
		"a b\r\nPUB":             "tether.s.a=20b=0D=0APUB",
		"=2A":                    "tether.s.=3D2A",
		"é":                      "tether.s.=C3=A9",
		"\x00\x7f":               "tether.s.=00=7F",
		strings.Repeat("a", 200): "tether.s." + strings.Repeat("a", 200),
	} {
		if got := n.wire(subject); got != want || n.isHash(got) {
			t.Errorf("%q: got %q, want %q", subject, got, want)
		}
	}
	for _, subject := range []string{strings.Repeat("a", 201), strings.Repeat("é", 34), strings.Repeat("a", 1<<20)} {
		got := n.wire(subject)
		if !n.isHash(got) || !strings.HasPrefix(got, "tether.h.") || len(got) != len("tether.h.")+64 {
			t.Errorf("%.20q…: got %q, want a hash", subject, got)
		}
	}
}

// FuzzWire takes each wire subject apart again: what can be undone is injective.
func FuzzWire(f *testing.F) {
	for _, s := range []string{"user:42", "a..b", ".", "*", ">", "a.>", "=2A", " ", "\r\n", "é", "\xff", "$JS.API", strings.Repeat("x", 300)} {
		f.Add(s)
	}
	n := newNames("p", nil)
	f.Fuzz(func(t *testing.T, subject string) {
		wire := n.wire(subject)
		if len(wire) > len(n.short)+maxEscaped {
			t.Fatalf("%d bytes", len(wire))
		}
		for token := range strings.SplitSeq(wire, ".") {
			if token == "" && subject != "" || strings.ContainsAny(token, "*> \t\r\n") || !utf8.ValidString(token) {
				t.Fatalf("%q becomes %q, with the token %q", subject, wire, token)
			}
		}
		if n.isHash(wire) {
			return
		}
		if got := unescape(t, strings.TrimPrefix(wire, n.short)); got != subject {
			t.Fatalf("%q became %q, which is %q", subject, wire, got)
		}
	})
}

func unescape(t *testing.T, s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			out = append(out, s[i])
			continue
		}
		b, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
		i += 2
	}
	return string(out)
}

func FuzzSplitNamed(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendNamed(nil, broker.Message{Subject: "s", Data: []byte("data")}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 'x'})
	f.Add([]byte{5, 'x'})
	f.Fuzz(func(t *testing.T, payload []byte) {
		subject, data, err := splitNamed(payload)
		if err != nil {
			return
		}
		again, rest, err := splitNamed(appendNamed(nil, broker.Message{Subject: string(subject), Data: data}))
		if err != nil || !bytes.Equal(again, subject) || !bytes.Equal(rest, data) {
			t.Fatalf("%q: got %q, %q, %v, want %q, %q", payload, again, rest, err, subject, data)
		}
	})
}

func FuzzSplitReply(f *testing.F) {
	for _, s := range []string{"", ".", "..", "_INBOX.x.1.2", "_INBOX.x.zz.10", "a.-1.2", "a.1.99999999999", ".1.2", "a.b.c.d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, reply string) {
		inbox, n, ok := splitReply(reply)
		if ok && (len(inbox) < 2 || !strings.HasPrefix(reply, inbox) || n >= 1<<63) {
			t.Fatalf("%q: got %q, %d", reply, inbox, n)
		}
	})
}

func TestPrefixes(t *testing.T) {
	for _, s := range []string{"a", "tether", "A-b_9.c", strings.Repeat("x", 64)} {
		if !validPrefix(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{"", ".", "a.", ".a", "a..b", "a b", "*", "a.>", "é", "$SYS", strings.Repeat("x", 65)} {
		if validPrefix(s) {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestAGapNamesSubjectsUntilThereAreTooMany(t *testing.T) {
	var g gaps
	now := broker.Gap{}.From
	g.end(now)
	if got := g.take(); len(got) != 0 {
		t.Errorf("nothing was missed: got %v", got)
	}
	g.open(now, "a", errOverflow)
	g.open(now, "b", errStale)
	g.open(now, "a", errOverflow)
	g.end(now)
	got := g.take()
	if len(got) != 1 || got[0].Cause != errOverflow {
		t.Fatalf("got %v, want one gap", got)
	}
	slices.Sort(got[0].Subjects)
	if want := []string{"a", "b"}; !slices.Equal(got[0].Subjects, want) {
		t.Errorf("got %q, want %q", got[0].Subjects, want)
	}
	for i := range maxGapSubjects + 1 {
		g.open(now, fmt.Sprint(i), errOverflow)
	}
	g.end(now)
	g.open(now, "a", errOverflow)
	g.open(now, "", errCut)
	g.open(now, "b", errOverflow)
	g.end(now)
	for _, gap := range g.take() {
		if gap.Subjects != nil {
			t.Errorf("got %d subjects, want all", len(gap.Subjects))
		}
	}
}
