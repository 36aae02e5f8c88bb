package hub

import (
	"errors"
	"fmt"
	"testing"

	"tether/engine"
)

// Rooms of an emit: at maxTargets it is taken, one past it refused, and nothing is sent.
func TestLimitOfTargets(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	if err := s.Join(t.Context(), Room("here")); err != nil {
		t.Fatal(err)
	}
	rooms := func(n int) []Target {
		all := make([]Target, n)
		for i := range all {
			all[i] = Room(fmt.Sprint("room ", i))
		}
		return all
	}
	for name, emit := range map[string]func(n int) error{
		"excepted": func(n int) error {
			return second(h.Emitter().Except(rooms(n)...).Emit(t.Context(), Room("here"), "e"))
		},
		"of a union": func(n int) error {
			return second(h.Emitter().EmitUnion(t.Context(), append(rooms(n-1), Room("here")), "e"))
		},
		"of both": func(n int) error {
			return second(h.Emitter().Except(rooms(n-2)...).EmitUnion(t.Context(), []Target{Room("here"), Room("there")}, "e"))
		},
		"of a kick": func(n int) error {
			return second(h.Emitter().Except(append(rooms(n-1), Room("here"))...).Disconnect(t.Context(), Everyone, false))
		},
	} {
		if err := emit(maxTargets); err != nil {
			t.Errorf("%s: at the limit: %v", name, err)
		}
		if name != "of a kick" {
			p.want(`42["e"]`)
		}
		if err := emit(maxTargets + 1); !errors.Is(err, errTooManyRooms) {
			t.Errorf("%s: past the limit: %v", name, err)
		}
		p.wantNothing()
	}
}

// Attachments of an event or an answer: at MaxAttachments it is sent, one past it refused.
func TestLimitOfAttachments(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	for name, emit := range map[string]func(args ...any) error{
		"to a socket": func(args ...any) error { return s.Emit("e", args...) },
		"to a room":   func(args ...any) error { return second(h.Emitter().Emit(t.Context(), Everyone, "e", args...)) },
	} {
		for depth, with := range map[string]func(n int) []any{
			"side by side": func(n int) []any {
				args := make([]any, n)
				for i := range args {
					args[i] = Binary{byte(i)}
				}
				return args
			},
			"inside": func(n int) []any { return []any{make([]oneByte, n)} },
		} {
			if err := emit(with(engine.MaxAttachments)...); err != nil {
				t.Errorf("%s, %s: at the limit: %v", name, depth, err)
			} else if got := p.nextPacket().Attachments(); got != engine.MaxAttachments {
				t.Errorf("%s, %s: %d attachments arrive", name, depth, got)
			}
			if err := emit(with(engine.MaxAttachments + 1)...); !errors.Is(err, errTooManyAttachments) {
				t.Errorf("%s, %s: past the limit: %v", name, depth, err)
			}
			p.wantNothing()
		}
	}
}

// oneByte is a value with an attachment of one byte.
type oneByte struct{}

func (oneByte) MarshalJSON() ([]byte, error) { return Binary{1}.MarshalJSON() }
