package token_test

import (
	"errors"
	"fmt"
	"time"

	"tether/token"
)

// The login handler seals, the connect hook opens.
func Example() {
	key, err := token.NewKey(token.GenerateKey()) // in earnest: from the application's secrets
	if err != nil {
		panic(err)
	}
	keys := token.NewKeyring(key)

	tok, err := keys.SealUser("42", time.Hour)
	if err != nil {
		panic(err)
	}

	id, err := keys.OpenUser(tok)
	fmt.Println(id.User, time.Until(id.Expires).Round(time.Hour), err)
	// Output: 42 1h0m0s <nil>
}

func ExampleKeyring_Open() {
	key, _ := token.NewKey("4wq3JT8KzqK2R15wyX43tvDC/FNQnYWxqLDLk07JMCs=")
	keys := token.NewKeyring(key)

	type session struct {
		User  string   `json:"user_id"`
		Roles []string `json:"roles"`
	}
	tok, _ := keys.Seal(session{"7", []string{"staff"}})

	var s session
	err := keys.Open(tok, &s)
	fmt.Println(s, err)

	err = keys.Open(tok[1:], &s)
	fmt.Println(errors.Is(err, token.ErrInvalid))
	// Output:
	// {7 [staff]} <nil>
	// true
}

// After a new key has come into use, tokens of the old one open until they expire.
func ExampleNewKeyring() {
	before, _ := token.NewKey(token.GenerateKey())
	tok, _ := token.NewKeyring(before).SealUser("42", time.Hour)

	now, _ := token.NewKey(token.GenerateKey())
	id, err := token.NewKeyring(now, before).OpenUser(tok)
	fmt.Println(id.User, err)
	// Output: 42 <nil>
}
