package sim

// logged are bugs of the log, with which sessions outlive their nodes. The simulator's broker keeps none, so tests of the hub
// have to find them. See mutants.
var logged = []mutant{
	{
		"an event of two rooms is inherited twice", "heir.go",
		"		if read {\n			continue", "		if read && entry.Volatile() {\n			continue",
	}, {
		"what came before a join is inherited", "heir.go",
		"After: max(after, r.mark)})", "After: after})",
	}, {
		"a question that is open is forgotten with its node", "heir.go",
		"	case x.risky:\n		return lossQuestion\n", "",
	}, {
		"a session is inherited for ever", "heir.go",
		"time.Since(x.away) > window:", "time.Since(x.away) > 1000*window:",
	}, {
		"exceptions do not count in the log", "heir.go",
		"		case name == \"\" || name == x.id:\n			return false, true", "		case name == \"\" || name == x.id:\n			return true, true",
	}, {
		"what is not in the log is no risk", "record.go",
		"	if v := s.sessionOf(); v.risky.CompareAndSwap(false, true) {", "	if v := s.sessionOf(); v.risky.Load() {",
	},
}

// loggedTests are those tests.
const loggedTests = "^Test(ASessionOutlivesItsNode|WhatComesWhileASessionIsInherited|OneNodeInheritsASession|RoomsThatWereJoinedAndLeftInTheEnd|" +
	"WhatIsPublishedAgainIsNotGivenTwice|NodesAreKilledUnderLoad|WhatDoesNotOutliveANode|ANodeThatWasGivenUpFindsOut|APositionFromBeforeTheSession)$"
