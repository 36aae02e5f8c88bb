package socketio

import (
	"encoding/json"
	"fmt"
	"testing"
	"unicode/utf8"
)

func TestMembersAreThoseOfTheObject(t *testing.T) {
	for _, tt := range []struct{ data, want string }{
		{`{}`, ``},
		{` { } `, ``},
		{`{"a":1}`, `a=1;`},
		{`{"a" : [1,{"b":2}] , "c":"}" ,"d":null}`, `a=[1,{"b":2}];c="}";d=null;`},
		{`{"\u0061\"":true}`, `a"=true;`},
		{`[1]`, ``},
		{`"x"`, ``},
		{``, ``},
		{`{"a"`, ``},
		{`{"a":`, ``},
	} {
		got := ""
		for name, value := range Members([]byte(tt.data)) {
			got += fmt.Sprintf("%s=%s;", name, value)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.data, got, tt.want)
		}
	}
}

func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{"a":1,"b":[{"c":"}"}]}`, `{"\ud83d\ude00":{}}`, `{"a":1,}`, `{"a":`, `{,`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := map[string]json.RawMessage{}
		for name, value := range Members(data) { // whatever the text, it ends
			got[string(name)] = value
		}
		var want map[string]json.RawMessage
		if !utf8.Valid(data) || !ValidJSON(data) || json.Unmarshal(data, &want) != nil {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d members, want %d", data, len(got), len(want))
		}
		for name, value := range want {
			if string(got[name]) != string(value) {
				t.Errorf("%s: %q is %s, want %s", data, name, got[name], value)
			}
		}
	})
}
