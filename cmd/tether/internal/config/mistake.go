package config

import (
	"cmp"
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
)

// A Mistake is an error in the configuration or the command line. It names the key, where its value came
// from, and what would be right. It never quotes a secret.
type Mistake struct {
	Key     string // empty when the mistake is not about one key
	Source  string // "flag", "TETHER_ADDR", "tether.yaml:3", "default"
	Problem string
}

func (m *Mistake) Error() string {
	switch {
	case m.Key == "" && m.Source == "":
		return m.Problem
	case m.Key == "":
		return m.Source + ": " + m.Problem
	case m.Source == "":
		return m.Key + ": " + m.Problem
	}
	return m.Key + " (" + m.Source + "): " + m.Problem
}

var (
	didYou     = regexp.MustCompile(`, did you mean (".+")\?$`)
	unexpected = regexp.MustCompile(`^unexpected argument (.*)$`)
	missing    = regexp.MustCompile(`^expected "(.*)"$`)
	noValue    = regexp.MustCompile(`^(\S+): expected .* but got "EOL"`)
	harmless   = regexp.MustCompile(`^[A-Za-z0-9._/-]*$`).MatchString
)

// toMistake says in the words of this program what the parser found.
func toMistake(err error) error {
	if m := (*Mistake)(nil); errors.As(err, &m) {
		return m
	}
	command := "tether"
	if p := (*kong.ParseError)(nil); errors.As(err, &p) && p.Context.Selected() != nil {
		command += " " + p.Context.Selected().Path()
	}
	text, near := strings.ReplaceAll(err.Error(), "--", ""), ""
	if m := didYou.FindStringSubmatch(text); m != nil {
		text, near = strings.TrimSuffix(text, m[0]), " (did you mean "+strings.ReplaceAll(m[1], `"`, "")+"?)"
	}
	if m := unexpected.FindStringSubmatch(text); m != nil {
		text = strangeWord(m[1])
		near = cmp.Or(near, "; a setting is --key=value")
	} else if m := missing.FindStringSubmatch(text); m != nil {
		text = strings.ReplaceAll(m[1], "\" \"", " ") + " is missing"
	} else if m := noValue.FindStringSubmatch(text); m != nil {
		text = m[1] + " has no value; --" + m[1] + "=VALUE is right"
	}
	return &Mistake{Source: "command line", Problem: text + near + "; " + command + " -h explains"}
}

// strangeWord is about a word that stands alone on the command line. It may be a secret without its flag, so
// it is not quoted when it could be a key or a URL.
func strangeWord(word string) string {
	if len(word) < leastKeyLength && harmless(word) {
		return strconv.Quote(word) + " is unexpected"
	}
	return "a word is unexpected, and not shown because it may be a secret"
}
