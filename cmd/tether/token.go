package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/token"
)

type tokenCommand struct {
	Mint mintCommand `cmd:"" uses:"auth.keys" help:"Print a token for a user."`
	Open openCommand `cmd:"" uses:"auth.keys,auth.leeway" help:"Print whose a token is, and until when."`
}

func keyringOf(l *config.Loaded) (*token.Keyring, error) {
	keys, err := config.Expand(l.Auth.Keys)
	if err != nil {
		return nil, err
	}
	return config.Keyring(keys)
}

type mintCommand struct {
	User string        `arg:"" help:"ID of the user."`
	TTL  time.Duration `name:"ttl" default:"1h" help:"How long the token is good for. 0: for ever."`
}

func (mintCommand) Help() string { return "It is sealed with the first of auth.keys." }

func (c *mintCommand) run(p *program, l *config.Loaded) int {
	keys, err := keyringOf(l)
	if err != nil {
		return p.end(err)
	}
	sealed, err := keys.SealUser(c.User, c.TTL)
	if err != nil {
		return p.end(err)
	}
	return p.print(sealed)
}

type openCommand struct {
	Token string `arg:"" optional:"" help:"The token. Default: it is read from the standard input, where other users of the host do not see it."`
}

func (c *openCommand) run(p *program, l *config.Loaded) int {
	keys, err := keyringOf(l)
	if err != nil {
		return p.end(err)
	}
	if c.Token == "" {
		text, err := io.ReadAll(io.LimitReader(p.stdin, 1<<20))
		if err != nil {
			return p.end(err)
		}
		c.Token = strings.TrimSpace(string(text))
	}
	identity, err := keys.OpenUserAt(c.Token, time.Now().Add(-l.Auth.Leeway))
	if err != nil {
		return p.end(err)
	}
	out := struct {
		User    string     `json:"user"`
		Expires *time.Time `json:"expires,omitempty"`
		Issued  *time.Time `json:"issued,omitempty"`
		ID      string     `json:"id,omitempty"` // what tether revoke --token wants
	}{User: identity.User, ID: identity.ID}
	if !identity.Expires.IsZero() {
		out.Expires = &identity.Expires
	}
	if !identity.Issued.IsZero() {
		out.Issued = &identity.Issued
	}
	text, err := json.Marshal(out)
	if err != nil {
		return p.end(fmt.Errorf("the token opens to what is no user: %w", err))
	}
	return p.print(string(text))
}

type keyCommand struct{}

func (keyCommand) run(p *program, _ *config.Loaded) int { return p.print(token.GenerateKey()) }
