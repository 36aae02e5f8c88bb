package redis

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRepliesAreReadWholeAndInPieces(t *testing.T) {
	big := strings.Repeat("x", 3*bulkStep+17)
	for _, c := range []struct {
		wire string
		want any
	}{
		{"+OK\r\n", "OK"},
		{"-ERR no\r\n", serverError("ERR no")},
		{":42\r\n", int64(42)},
		{":-7\r\n", int64(-7)},
		{"$0\r\n\r\n", ""},
		{"$5\r\na\r\nb\n\r\n", "a\r\nb\n"},
		{"$-1\r\n", nil},
		{"*-1\r\n", nil},
		{"*0\r\n", []any{}},
		{"*3\r\n$1\r\na\r\n:1\r\n*1\r\n-E\r\n", []any{"a", int64(1), []any{serverError("E")}}},
		{string(appendBulk(nil, big)), big},
	} {
		for name, src := range map[string]io.Reader{
			"whole":     strings.NewReader(c.wire),
			"byte-wise": iotest.HalfReader(iotest.DataErrReader(strings.NewReader(c.wire))),
		} {
			got, err := newReader(src).reply()
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%.40q, %s: got %.40v, %v", c.wire, name, got, err)
			}
		}
	}
}

func TestMalformedRepliesAreErrors(t *testing.T) {
	for _, wire := range []string{
		"", "\r\n", "\n", "OK\r\n", "+OK\n", ":x\r\n", ":\r\n", ":1", ":99999999999999999999\r\n", "$-2\r\n", "$3\r\nab\r\n",
		"$2\r\nabc\r\n", "$999999999999\r\n", "*-2\r\n", "*9999999\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
		"$536870912\r\nshort", "+" + strings.Repeat("x", bufferSize) + "\r\n", "$+5\r\nhello\r\n", ":--1\r\n", "!3\r\nabc\r\n",
	} {
		if got, err := newReader(strings.NewReader(wire)).reply(); err == nil {
			t.Errorf("%.40q: got %v", wire, got)
		}
	}
}

func TestALengthAloneAllocatesLittle(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d := newReader(strings.NewReader("$536870912\r\nshort"))
	if _, err := d.bulkCopy(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	if allocated > 2*bulkStep {
		t.Errorf("%d bytes were allocated for a length without data", allocated)
	}
}

func FuzzReader(f *testing.F) {
	for _, s := range []string{
		"+OK\r\n", "-ERR x\r\n", ":1\r\n", "$3\r\nabc\r\n", "*2\r\n$1\r\na\r\n:1\r\n", "$-1\r\n", "*-1\r\n",
		"*3\r\n$7\r\nmessage\r\n$1\r\ns\r\n$2\r\nhi\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\ns\r\n:1\r\n",
		"*2\r\n$4\r\npong\r\n$3\r\n123\r\n", "$3\r\n123\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		whole, wholeErr := newReader(bytes.NewReader(wire)).reply()
		pieces, piecesErr := newReader(iotest.OneByteReader(bytes.NewReader(wire))).reply()
		if (wholeErr == nil) != (piecesErr == nil) || wholeErr == nil && !reflect.DeepEqual(whole, pieces) {
			t.Fatalf("whole: %v, %v; in pieces: %v, %v", whole, wholeErr, pieces, piecesErr)
		}
		d := newReader(bytes.NewReader(wire))
		for {
			a, err := d.bulk()
			if err != nil {
				break
			}
			if len(a) > len(wire) {
				t.Fatalf("%d bytes from %d", len(a), len(wire))
			}
		}
	})
}

func FuzzParseClientInfo(f *testing.F) {
	f.Add("id=3 addr=127.0.0.1:52555 laddr=127.0.0.1:6379 fd=8 name= age=0")
	f.Add("id=4 addr=/run/redis.sock:0 name=a b")
	f.Add("addr=x")
	f.Fuzz(func(t *testing.T, info string) {
		c := parseClientInfo(info)
		if (c.id == "") != (c.addr == "") {
			t.Fatalf("half a name: %+v", c)
		}
		if strings.ContainsAny(c.id+c.addr, " \r\n") {
			t.Fatalf("a name that cannot be a lease: %+v", c)
		}
	})
}

func TestClientInfoNamesTheConnection(t *testing.T) {
	got := parseClientInfo("id=3 addr=127.0.0.1:52555 laddr=127.0.0.1:6379 fd=8 name=\n")
	if want := (clientID{"3", "127.0.0.1:52555", "127.0.0.1:6379"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
