package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"

	"tether/hub"
)

// target is whom a request is for. Exactly one of the four is set.
type target struct {
	User      *userID `json:"user"`
	Room      *string `json:"room"`
	Socket    *string `json:"socket"`
	Everyone  bool    `json:"everyone"`
	Namespace string  `json:"namespace"` // default "/"
}

func (t target) sockets() (to hub.Target, err error) {
	n := 0
	if t.User != nil {
		n, to = n+1, hub.User(string(*t.User))
	}
	if t.Room != nil {
		n, to = n+1, hub.Room(*t.Room)
		if *t.Room == "" {
			err = errors.New(`"room" is empty; for all sockets say "everyone":true`)
		}
	}
	if t.Socket != nil {
		n, to = n+1, hub.SocketID(*t.Socket)
		if to == (hub.Target{}) {
			err = errors.New(`"socket" is not the ID of a socket`)
		}
	}
	if t.Everyone {
		n, to = n+1, hub.Everyone
	}
	if n != 1 {
		return to, errors.New(`one of "user", "room", "socket" and "everyone" is needed, and no more`)
	}
	return to, err
}

// userID is the ID of a user, given as a string or as a number. The text of a number is the ID, as it
// is in a token.
type userID string

func (u *userID) UnmarshalJSON(data []byte) error {
	var text string
	if data[0] == '"' {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	} else {
		var n json.Number
		if err := json.Unmarshal(data, &n); err != nil || n == "" { // null
			return errors.New("a user is a string or a number")
		}
		text = n.String()
	}
	if text == "" {
		return errors.New("a user is not empty")
	}
	*u = userID(text)
	return nil
}

type event struct {
	Event string            `json:"event"`
	Args  []json.RawMessage `json:"args"`
}

// parts are the name, which may not be missing, and the arguments.
func (e event) parts() (name string, args []any, err error) {
	if e.Event == "" {
		return "", nil, badRequest(errors.New(`"event" is needed, the name of the event`))
	}
	args = make([]any, len(e.Args))
	for i, a := range e.Args {
		args[i] = a
	}
	return e.Event, args, nil
}

// badRequest marks an error as the caller's, to be told with status 400.
func badRequest(err error) error { return &requestError{http.StatusBadRequest, err} }

type requestError struct {
	status int
	err    error
}

func (e *requestError) Error() string { return e.err.Error() }

// decode reads exactly one JSON object, whose members are known, and are there once: of two with one name a proxy might
// have checked the other one.
func decode(body []byte, into any) error {
	if !utf8.Valid(body) {
		return badRequest(errors.New("the body is not UTF-8"))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest(errors.New(misread(err)))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest(errors.New("the body goes on after the JSON object"))
	}
	return checkMembers(body)
}

// misread says what is wrong with a body, to somebody who does not know Go.
func misread(err error) string {
	wrong := (*json.UnmarshalTypeError)(nil)
	switch {
	case errors.Is(err, io.EOF):
		return "the body is empty, where a JSON object is right"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the body ends in the middle of the JSON object"
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Sprintf("the body is not what is wanted: %s, where an object is right", withArticle(wrong.Value))
	case errors.As(err, &wrong):
		name := wrong.Field[strings.LastIndexByte(wrong.Field, '.')+1:]
		return fmt.Sprintf("%q is not what is wanted: %s, where %s is right", name, withArticle(wrong.Value), jsonName(wrong.Type))
	}
	return "the body is not what is wanted: " + strings.TrimPrefix(err.Error(), "json: ")
}

// checkMembers looks at the names in a JSON object that has been decoded: encoding/json takes a name in any case, and of two
// members with one name the last.
func checkMembers(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if t, _ := d.Token(); t != json.Delim('{') {
		return badRequest(errors.New("the body is not what is wanted: null, where an object is right"))
	}
	seen := make(map[string]bool)
	for d.More() {
		t, _ := d.Token()
		name, _ := t.(string)
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz") != "" { // as no name is
			return badRequest(fmt.Errorf("the body is not what is wanted: unknown field %q", name))
		}
		if seen[name] {
			return badRequest(fmt.Errorf("%q is there twice", name))
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return badRequest(err)
		}
	}
	return nil
}

// jsonName is what JSON calls the values of a type of Go.
func jsonName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "an array"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	}
	return "a string"
}

// withArticle is what encoding/json calls a value, which may be "number 1.5".
func withArticle(noun string) string {
	noun, _, _ = strings.Cut(noun, " ")
	switch {
	case noun == "bool":
		return "true or false"
	case strings.ContainsRune("aeiou", rune(noun[0])):
		return "an " + noun
	}
	return "a " + noun
}
