package sim

// absent are bugs of presence: changes that are lost, doubled, or brought back by a late word. See mutants.
var absent = []mutant{
	{
		"a device that goes is not told to the owner", "../presence/holding.go",
		"		p.letGoLocked(h, at, \"\")\n", "		p.letGoLocked(h, at, \"\")\n		h.confirmed = h.number\n",
	}, {
		"a word that is told twice counts twice", "../presence/record.go",
		"	if at < 0 { // it may", "	if at < 0 || d.flags&deviceGone == 0 { // it may",
	}, {
		"a late word revives a device", "../presence/record.go",
		"	if u.number <= before {\n		return false\n	}\n	for _, d := range u.devices {\n		if d.number > before {",
		"	for _, d := range u.devices {\n		if d.number+before > 0 {",
	}, {
		"a session that waits is forgotten with its node", "../presence/record.go",
		"				d.why = nodeLost\n", "				d.why = \"\"\n",
	}, {
		"devices of a node that has died stay", "../presence/record.go",
		"!lives && d.went == 0 {", "!lives && d.went == 0 && d.came == 0 {",
	}, {
		"an owner does not ask the others what they know", "../presence/pull.go",
		"	if len(v.nodes) > 1 {\n", "	for tag := range v.nodes {\n		said[tag] = true\n	}\n	if len(v.nodes) > 100 {\n",
	}, {
		"an owner does not wait for the last node", "../presence/pull.go",
		"		if !said[tag] {\n			return false", "		if !said[tag] && len(said) < len(v.nodes)-1 {\n			return false",
	}, {
		"an owner decides by a list that has changed", "../presence/owner.go",
		"	return now.Err == nil && now.Absences == p.standing.Absences && now.Changes == p.standing.Changes",
		"	return now.Changes >= 0",
	}, {
		"an owner goes on by its old view", "../presence/sync.go",
		"	p.view, p.active, p.pulled = v, false,", "	p.view, p.active, p.pulled = v, p.active,",
	}, {
		"a deputy gets nothing", "../presence/copies.go",
		"		for _, c := range copies {\n			p.putCopyLocked(c)\n		}", "		clear(copies)",
	}, {
		"an older copy replaces a newer one", "../presence/copies.go",
		"	if c.version > r.version {\n", "	if c.version != r.version {\n",
	}, {
		"what has been told is told again by the next owner", "../presence/owner.go",
		"	if r.change.number == told.number {\n		r.change.told = true\n	}\n	for _, d",
		"	if p.ownedLocked(r) {\n		r.change.told = true\n	}\n	for _, d",
	}, {
		"a record that has been told of is not given on", "../presence/owner.go",
		"	r.version = p.nextVersionLocked()\n	if p.ownedLocked(r) {\n		p.evaluateLocked(r)\n	}\n	p.turnLocked()",
		"	if p.ownedLocked(r) {\n		p.evaluateLocked(r)\n	}\n	p.turnLocked()",
	}, {
		"the grace is not begun anew by a device that comes", "../presence/owner.go",
		"	if present > 0 || !r.change.online {\n", "	if !r.change.online {\n",
	}, {
		"there is no grace", "../presence/owner.go",
		"if left <= 0 || p.lastLocked() {", "if left <= p.o.Grace || p.lastLocked() {",
	}, {
		"a user that comes back while his end is told is forgotten", "../presence/owner.go",
		"	r.version = p.nextVersionLocked()\n	if p.ownedLocked(r) {\n		p.evaluateLocked(r)\n	}\n	p.turnLocked()",
		"	r.version = p.nextVersionLocked()\n	if p.ownedLocked(r) {\n		p.settleLocked(r)\n	}\n	p.turnLocked()",
	}, {
		"a node that was away trusts what it knew", "../presence/sync.go",
		"	if p.view != nil && p.view.hash == v.hash && !absent {", "	if p.view != nil && p.view.hash == v.hash {",
	}, {
		"a node says only what it has not said, whoever asks", "../presence/pull.go",
		"			w.add(holdings[0], 0)\n			page", "			w.add(holdings[0], holdings[0].confirmed)\n			page",
	}, {
		"a node that ends does not wait until it has been heard", "../presence/presence.go",
		"	return !slices.ContainsFunc(p.view.owners, func(c candidate) bool { return p.pulled[c.tag].IsZero() })",
		"	return !slices.ContainsFunc(p.view.owners, func(c candidate) bool { return c.tag == \"\" })",
	}, {
		"the users of the last node are not told of", "../presence/owner.go",
		"return p.ending && p.view != nil && p.view.ending }", "return p.ending && p.view == nil }",
	}, {
		"a word that was not taken is not told again", "../presence/holding.go",
		"				again = append(again, h)\n", "				p.confirmLocked(h, w.users[i].number, change{})\n",
	}, {
		"who leaves a user stays his device", "membership.go",
		"	s.tellRegistered(s.leaveRooms(stateParked, rooms)...)\n", "	s.leaveRooms(stateParked, rooms)\n",
	}, {
		"who ends stays a device", "socket.go",
		"	s.tellEnded()\n", "",
	},
}
