package server

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
)

// TestABodyThatIsWrongIsRefusedWithWhatIsRight: in words that need no Go.
func TestABodyThatIsWrongIsRefusedWithWhatIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := startAPI(t)
		a.config.Emit.MaxTargets = 3
		for _, c := range []struct {
			serve      func(context.Context, []byte) (any, error)
			body, says string
		}{
			{a.emit, ``, `the body is empty, where a JSON object is right`},
			{a.emit, ` `, `the body is empty, where a JSON object is right`},
			{a.emit, `{"user":`, `the body ends in the middle of the JSON object`},
			{a.emit, `null`, `the body is not what is wanted: null, where an object is right`},
			{a.emit, `[]`, `the body is not what is wanted: an array, where an object is right`},
			{a.emit, `42`, `the body is not what is wanted: a number, where an object is right`},
			{a.emit, `true`, `the body is not what is wanted: true or false, where an object is right`},
			{a.emit, `{"user":"1","event":"x"}]`, `the body goes on after the JSON object`},
			{a.emit, `{"user":"1","user":"2","event":"x"}`, `"user" is there twice`},
			{a.emit, `{"user":"1","event":"x","args":[],"args":[]}`, `"args" is there twice`},
			{a.emit, `{"user":"1","USER":"2","event":"x"}`, `the body is not what is wanted: unknown field "USER"`},
			{a.emit, `{"u` + "ſ" + `er":"2","event":"x"}`, `the body is not what is wanted: unknown field "uſer"`},
			{a.emit, `{"usr":"1"}`, `the body is not what is wanted: unknown field "usr"`},
			{a.emit, `{"user":"1","event":"` + "\xff" + `"}`, `the body is not UTF-8`},
			{a.emit, `{"user":true}`, `the body is not what is wanted: a user is a string or a number`},
			{a.emitBatch, `{"users":[null],"event":"x"}`, `the body is not what is wanted: a user is a string or a number`},
			{a.emitBatch, `{"users":[1,2],"rooms":["a","b"],"event":"x"}`, `4 targets; the limit is 3`},
			{a.emitBatch, `{"users":[],"event":"x"}`, `"users" or "rooms" is needed`},
			{a.disconnect, `{"user":"1","close":1}`, `"close" is not what is wanted: a number, where true or false is right`},
			{a.fetch, `{"user":"1","limit":"5"}`, `"limit" is not what is wanted: a string, where a whole number is right`},
			{a.fetch, `{"user":"1","limit":1.5}`, `"limit" is not what is wanted: a number, where a whole number is right`},
			{a.fetch, `{"user":"1","rooms":[]}`, `"rooms" is not what is wanted: an array, where true or false is right`},
			{a.join, `{"user":"1","rooms":[""]}`, `a room is empty`},
			{a.leave, `{"user":"1","rooms":[7]}`, `"rooms" is not what is wanted: a number, where a string is right`},
			{a.ask, `{"user":"1"}`, `"event" is needed, the name of the event`},
			{a.online, `{"users":[1,2,3,4]}`, `4 users; the limit is 3`},
			{a.online, `{"users":"1"}`, `"users" is not what is wanted: a string, where an array is right`},
			{a.revoke, `{"before":""}`, `the body is not what is wanted: a time is seconds since 1970, or a text like "2026-01-02T15:04:05Z"`},
			{a.refresh, `{"socket":"x","socket":"y","token":"z"}`, `"socket" is there twice`},
		} {
			if out, err := c.serve(t.Context(), []byte(c.body)); err == nil || err.Error() != c.says || statusOf(err) != 400 {
				t.Errorf("%s: got %v, %v; want %s", c.body, out, err, c.says)
			}
		}
		deep := `{"user":"1","event":"x","args":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`
		if _, err := a.emit(t.Context(), []byte(deep)); err == nil || !strings.Contains(err.Error(), "max depth") {
			t.Errorf("arrays that are too deep: %v", err)
		}
		for _, body := range []string{`{"event":"x","user":1e400}`, `{"user":"user","event":"user","args":[{"user":1,"user":2}]}`, ` {"everyone":true , "event" : "x"} `} {
			if _, err := a.emit(t.Context(), []byte(body)); err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
	})
}
