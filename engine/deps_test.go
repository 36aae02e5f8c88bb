package engine

import (
	"testing"

	"tether/internal/deptest"
)

func TestDependsOnTheStandardLibraryOnly(t *testing.T) { deptest.Only(t, "tether/engine") }
