package sim

// resumed are bugs of recovery: events that come twice or not at all, and sessions that another one gets, two nodes have,
// or nobody. See mutants.
var resumed = []mutant{
	{
		"the last event that a client has is replayed", "connect.go",
		"		from = v.from //", "		from = v.from - min(v.from, 1) //",
	}, {
		"nobody is told that a session has expired", "../presence/waits.go",
		"		}), why)\n", "		}), why[:0])\n",
	}, {
		"a client that is away counts as connected", "live.go",
		"	if o == engine.Parked || o.Dropped() {", "	if o.Dropped() {",
	}, {
		"a node that an event has not come to yet says that nobody is connected", "live.go",
		"	case t != nil && t.nobody():", "	case t == nil || t.nobody():",
	}, {
		"nodes that have not said where clients are do not count", "live.go",
		"	case all && known >= took.Nodes:", "	case all || known >= 0:",
	}, {
		"the position of another event counts", "recovery.go",
		"string(text[n:len(text)-2]) == offset &&", "string(text[n:n+tagLength]) == offset[:tagLength] &&",
	}, {
		"what others got before a join is replayed", "handing.go",
		"	s = v.lockHolder()\n	defer s.mu.Unlock()\n	from, why := v.missingLocked(string(offset))\n	entries, origins, next, intact := v.log.Give(from) // at once",
		"	var others []*engine.Entry\n	for o := range h.index.lookup(s.ns.subject).each {\n		if x := o.sessionOf(); o != s && x != nil {\n			others, _ = x.log.From(others, x.log.First(), 1<<30)\n		}\n	}\n" +
			"	s = v.lockHolder()\n	defer s.mu.Unlock()\n	from, why := v.missingLocked(string(offset))\n	entries, origins, next, intact := v.log.Give(from)\n	entries = append(others, entries...) // at once",
	}, {
		"a session is handed over twice", "handing.go",
		"	if s.gate.State() != stateParked || v.passed != \"\" || v.claim != claim {\n",
		"	if s.gate.State() != stateParked {\n",
	}, {
		"a session is forgotten before the next node has it", "handing.go",
		"	v.given, v.cut = true, next\n",
		"	v.given, v.cut = true, next\n	time.AfterFunc(5*time.Millisecond, func() { s.lapse(lossNode) })\n",
	}, {
		"a session that waits has no deadline", "parked.go",
		"	h.parked.set(s, deadline)\n", "	_ = deadline\n",
	}, {
		"a secret that is wrong is good on another node", "handover.go",
		"v == nil || sha256.Sum256(v.secret[:]) != k.hash {", "v == nil {",
	}, {
		"no hook is asked about who comes back", "resume.go",
		"	if err := s.admit(ctx); err != nil {\n		return err\n	}\n	if s.foreign(", "	if err := s.settle(ctx); err != nil {\n		return err\n	}\n	if s.foreign(",
	}, {
		"an answer that is awaited is forgotten", "parked.go",
		"	case s.extra.acks != nil && len(s.extra.acks.waiting) > 0:\n		v.why",
		"	case s.extra.acks != nil && len(s.extra.acks.waiting) > maxHops:\n		v.why",
	}, {
		"what two nodes have got comes twice", "claim.go",
		"return seen[e.Origin] })", "return seen[e.Origin] && e.Volatile() })",
	}, {
		"a change that comes to the node which has just passed the session on is forgotten", "change.go",
		"	k, to, moves := s.movedTo()\n	answer, err := h.askSession(ctx, to, k.question(sessionChange",
		"	if done || !done {\n		return done, nil\n	}\n	k, to, moves := s.movedTo()\n	answer, err := h.askSession(ctx, to, k.question(sessionChange",
	}, {
		"rooms that change while a session is handed over are forgotten", "handing.go",
		"		v.claim, v.given = 0, false\n", "		_ = v\n",
	}, {
		"a socket takes events for a session that another node has", "replay.go",
		"	if s.gate.State() == stateParked && v.given {", "	if s.gate.State() == stateMoved && v.given {",
	}, {
		"what a node has for a socket that has moved ends with it", "run.go",
		"	h.retire(err)\n", "",
	}, {
		"a session that waits does not hear of a gap", "parked.go",
		"		if v == nil || s.gate.State() >= stateMoved {\n", "		if v == nil || s.gate.State() >= stateParked {\n",
	}, {
		"what a node passes on is sent behind later events", "recovery.go",
		"	e.Place, e.Passed = from.place, from.passed\n", "	e.Place = from.place\n",
	}, {
		"who finds a node gone does not wait for what it has passed on last", "guests.go",
		"	if left := lateTime - time.Since(since); left > 0 {", "	if left := lateTime - time.Since(since); left > lateTime {",
	}, {
		"who goes while his session comes does not keep it", "parked.go",
		"v.home != \"\" && !v.coming)", "v.home != \"\")",
	}, {
		"a node that is ending does not hand sessions over", "run.go",
		"	h.linger(min(linger, h.options.Recovery.Window))\n", "	h.linger(min(linger, 0))\n",
	}, {
		"what comes while a session is given is in neither half", "handing.go",
		"	entries, origins, next, intact := v.log.Give(from) // at once",
		"	entries, _, _, intact := v.log.Give(from)\n	s.mu.Unlock()\n	pause(ctx, time.Millisecond)\n	s.mu.Lock()\n	_, origins, next, _ := v.log.Give(from) // at once",
	}, {
		"an event between the last that is replayed and the first live one counts as sent", "replay.go",
		"			if s.opened(a, v, at, open) {\n",
		"			pause(s.client.hub.handlerContext, 1_000_000)\n			if s.opened(a, v, v.log.Next(), open) {\n",
	}, {
		"an event that was to wait for the last replayed one is kept when that has been sent", "replay.go",
		"	s.mu.Lock()\n	defer s.mu.Unlock()\n	if s.gate.State() >= stateConnected {\n		return false\n	}\n",
		"	pause(s.client.hub.handlerContext, 1_000_000)\n	s.mu.Lock()\n	defer s.mu.Unlock()\n",
	},
}

// passedOn are bugs of polling on any node, which a test of the relay has to find. See mutants.
var passedOn = []mutant{
	{
		"a POST is answered before its owner has taken it, and the next one may overtake it", "../relay/relay.go",
		"	defer forget()\n",
		"	defer forget()\n	if q.Method == http.MethodPost {\n		_, _ = io.WriteString(w, \"ok\")\n" +
			"		go func() {\n			for range r.node.Ask(context.WithoutCancel(q.Context()), cluster.Question{Topic: topicRequest, Body: text, To: node, Once: true}).Pages {\n			}\n		}()\n" +
			"		return nil\n	}\n",
	},
}
