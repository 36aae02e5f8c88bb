package sim

import (
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var plantSource = flag.Bool("mutants", false, "plant bugs into the source; see make mutants")

// mutant is a bug planted into the source of the hub or the transport: one piece of text replaced by another.
type mutant struct {
	name     string
	file     string // below the hub's folder
	old, new string
}

var mutants = []mutant{
	{
		"join does not wait for the confirmation", "interest.go",
		"	if m.room.subscribed || m.room.n == 0 {", "	if m.room != nil {",
	}, {
		"unsubscribe without looking again", "interest.go",
		"		queued = sh.edgeLocked(r)\n", "		queued = false\n",
	}, {
		"a room that is being unsubscribed counts as subscribed", "interest.go",
		"		r.busy, r.subscribed, r.lost = true, false, false // a join from now on must wait for the next round",
		"		r.busy, r.lost = true, false",
	}, {
		"a subscription that failed counts as made", "interest.go",
		"again := in.settle(r, err == nil, err)", "again := in.settle(r, true, nil)",
	}, {
		"nobody tries again after a failure", "interest.go",
		"		if len(f.rooms) > 0 {\n			f.due", "		if len(f.rooms) < 0 {\n			f.due",
	}, {
		"what the broker has ended is not subscribed again", "lost.go",
		"		edge = sh.edgeLocked(r)\n		if sh.idleLocked(r) {", "		if sh.idleLocked(r) {",
	}, {
		"a subscription that ends while a call is under way counts as made", "interest.go",
		"	subscribed = subscribed && !r.lost", "	r.lost = false",
	}, {
		"what the broker is said to have ended is not unsubscribed", "interest.go",
		"	case !want && (r.subscribed || r.lost):", "	case !want && r.subscribed:",
	}, {
		"a change misses a socket whose client comes back on this node", "change.go",
		"again = s.gate.State() == stateMoved {", "again = false {",
	}, {
		"the gap of what the broker has ended is not reported", "lost.go",
		"		in.found = append(in.found, g)\n", "",
	}, {
		"a room that is refused is not tried again", "interest.go",
		"			refused.rooms = append(refused.rooms, r)\n", "",
	}, {
		"the gap is not passed on", "run.go",
		"	if h.options.OnGap != nil {", "	if h.options.OnGap != nil && g.From.IsZero() {",
	}, {
		"the state is kept at the first sign of life", "run.go",
		"		h.log.Error(\"broker does not answer\", \"error\", err)",
		"		h.log.Error(\"broker does not answer\", \"error\", err)\n		return",
	}, {
		"what is emitted to a connecting socket is not held", "socket.go",
		"	case stateGone:\n		return ErrDisconnected\n	}\n	return s.hold(p, from)",
		"	case stateGone:\n		return ErrDisconnected\n	}\n	return s.conn.Send(p, &s.gate)",
	}, {
		"what was held is let go after what comes later", "connect.go",
		"	s.gate.Set(stateWelcome)\n", "	s.gate.Set(stateConnected)\n",
	}, {
		"what was held is forgotten", "connect.go",
		"		for _, p := range held {\n			s.conn.Send(p, nil)\n		}", "		clear(held)",
	}, {
		"the answer comes before the socket is reachable", "connect.go",
		"	_, err := s.join(ctx, 0, Everyone)\n	return err",
		"	go s.join(s.client.hub.handlerContext, 0, Everyone)\n	return nil",
	}, {
		"the connection is closed before DISCONNECT is sent", "socket.go",
		"		s.kick()\n	}\n	if !closeConnection {", "		if closeConnection {\n			s.conn.Close(ReasonServerDisconnect)\n		}\n		s.kick()\n	}\n	if !closeConnection {",
	}, {
		"a socket that ends stays in its rooms", "socket.go",
		"	for _, m := range s.rooms { // nobody changes them now\n", "	for _, m := range s.rooms[:len(s.rooms)/2] {\n",
	}, {
		"Leave leaves the subscription", "interest.go",
		"	if in.index.leave(m) {\n		in.enqueue(m.room)\n	}", "	in.index.leave(m)",
	}, {
		"exceptions do not count on other rooms", "deliver.go",
		"		if s.in(r) {\n			return true", "		if s.in(r) {\n			return false",
	}, {
		"a union reaches a socket once for each room", "emitter.go",
		"			except = append(slices.Clip(except), to[:i]...)\n			shared = nil", "			_, shared = i, nil",
	}, {
		"a socket's place is trusted without its ID", "deliver.go",
		"	if s == nil || !s.is(id) {", "	if s == nil {",
	}, {
		"Emit tries again", "emitter.go",
		"	taken, err := m.emitter.publisher.broker.Publish(ctx, msgs...)\n",
		"	taken, err := m.emitter.publisher.broker.Publish(ctx, msgs...)\n	if err != nil {\n		taken, err = m.emitter.publisher.broker.Publish(ctx, msgs...)\n	}\n",
	}, {
		"Emit hides the broker's error", "emitter.go",
		"		return fmt.Errorf(\"hub: emit: %w\", err)\n", "		_ = fmt.Errorf\n",
	}, {
		"fan-out stops at the first socket that takes no more", "deliver.go",
		"			dropped++\n			s.refused(p, err)\n		}\n	}\n	h.sent(n, dropped)\n	p.Routed(n)\n	if h.watched.Load() {\n		h.watch(r, p, nil)",
		"			dropped++\n			s.refused(p, err)\n			break\n		}\n	}\n	h.sent(n, dropped)\n	p.Routed(n)\n	if h.watched.Load() {\n		h.watch(r, p, nil)",
	}, {
		"fan-out forgets everybody but the first", "blocks.go",
		"	c := r.rest.Load()\n	if c == nil {\n		return\n	}\n	for _, b", "	c := r.rest.Load()\n	if c == nil || r.first.Load() != nil {\n		return\n	}\n	for _, b",
	}, {
		"a place is handed out that is not free", "blocks.go",
		"	c.free = append(c.free, place)\n", "	c.free = append(c.free, place, place)\n",
	}, {
		"a connection that has ended stays in the roster", "client.go",
		"	for _, s := range c.all() {\n		s.lose(reason)\n	}\n	c.hub.detach(c)", "	for _, s := range c.all() {\n		s.lose(reason)\n	}",
	}, {
		"attachments are cut off", "../engine/packet.go",
		"		binary = append(binary, attachment)", "		binary = append(binary, attachment)[:1]\n		binary[0].to--",
	}, {
		"events are handled each by a goroutine of its own", "inbox.go",
		"		for i := range tasks {\n			c.handle(&tasks[i])",
		"		for i := range tasks {\n			if t := tasks[i]; t.message != nil && i%2 == 1 {\n				go func() { c.handle(&t); c.handled(in, t.size) }()\n				continue\n			}\n			c.handle(&tasks[i])",
	}, {
		"a disconnect of all nodes reaches the first socket only", "change.go",
		"		case done:\n			changed++\n		}\n	}\n",
		"		case done:\n			changed++\n		}\n		if q.Topic == topicDisconnect {\n			break\n		}\n	}\n",
	}, {
		"a join is confirmed before it is in force", "change.go",
		"		err := s.joinRooms(ctx, stateMoved, c.rooms)\n",
		"		var err error\n		go s.joinRooms(ctx, stateMoved, c.rooms)\n",
	}, {
		"a leave of all nodes is lost", "change.go",
		"s.leaveRooms(stateMoved, c.rooms)", "s.leaveRooms(stateMoved, c.rooms[:0])",
	}, {
		"an answer is counted twice", "../cluster/page.go",
		"	if at.done || p.index < at.next ||", "	if p.index < at.next &&  p.index > 0 ||",
	}, {
		"a page is lost", "../cluster/page.go",
		"	if len(body) > 0 {\n", "	if len(body) > 0 && len(a.parts) < 2 {\n",
	}, {
		"a question does not wait for the last answer", "../cluster/asking.go",
		"a.done < a.counted {", "a.done < a.counted-1 {",
	}, {
		"who does not answer is not missing", "../cluster/asking.go",
		"		if p.why != nil {\n			a.missing", "		if p.why == ErrLost {\n			a.missing",
	}, {
		"a node that is silent stays on the list", "../cluster/roll.go",
		"silent >= lease && tag != r.tag:", "silent >= 100*lease && tag != r.tag:",
	}, {
		"a late beat revives a member", "../cluster/roll.go",
		"	if b.number <= e.number || e.left {", "	if b.number == e.number+1000 {",
	}, {
		"leases end while nothing is heard", "../cluster/roll.go",
		"	if r.stale(now) {\n		return false", "	if r.stale(now.Add(-time.Hour)) {\n		return false",
	}, {
		"a socket that is registered again is greeted again", "register.go",
		"	if fresh && !h.options.Greeting.Off {", "	if !h.options.Greeting.Off {\n		if err := s.greet(); err != nil {\n			return err\n		}",
	}, {
		"the oldest device may stay", "devices.go",
		"		for _, r := range all[:excess] {", "		for _, r := range all[:0] {",
	}, {
		"a message is good on any subject", "../broker/seal/message.go",
		"	s.text = append(s.text[:0], subject...)\n	s.text = c.Seal", "	s.text = append(s.text[:0], subject[:0]...)\n	s.text = c.Seal",
	}, {
		"a sealed message is good on any subject", "../broker/seal/message.go",
		"	s.text = append(s.text, subject...)\n	return", "	s.text = append(s.text, subject[:0]...)\n	return",
	}, {
		"a message is good twice", "../broker/seal/window.go",
		"	*word |= bit\n", "	*word |= bit &^ (1 << 3)\n",
	}, {
		"an old message is good again once it is forgotten", "../broker/seal/broker.go",
		"	if h.at < now-windowMillis || h.at", "	if h.at",
	}, {
		"what has no key is taken", "../broker/seal/broker.go",
		"b.o.Keys.Plain != RefusePlain {", "b.o.Keys.Plain != AcceptPlain {",
	}, {
		"the drain does not wait until the connections have ended", "run.go",
		"	clients = nil\n	ticker.Reset(drainPoll)", "	if clients = nil; window >= 0 {\n		return\n	}\n	ticker.Reset(drainPoll)",
	},
}

// direct are those that a test of a package has to find: the simulator does not poll, or comes there too rarely.
var direct = map[string]struct{ pkg, test string }{
	"a POST is answered before its owner has taken it, and the next one may overtake it": {"../../relay", "^TestAPOSTIsAnsweredWhenItsOwnerHasTakenIt$"},
	"a change that comes to the node which has just passed the session on is forgotten":  {"../../hub", "^TestAChangeFollowsASessionThatHasMoved$"},
	"rules are told to a node that will not be asked yet":                                {"../../revoke", "^TestANodeWaitsUntilTheOthersKnowIt$"},
	"a node that only others know is not asked":                                          {"../../revoke", "^TestANodeThatOnlyOthersKnowIsAsked$"},
	"a room that is being unsubscribed counts as subscribed":                             {"../../hub", "^TestFlappingTabsMissNothingWhileTheyAreOpen$"},
	"a subscription that ends while a call is under way counts as made":                  {"../../hub", "^TestWhatTheBackendEndsAtOnceIsSubscribedAgain$"},
	"what the broker is said to have ended is not unsubscribed":                          {"../../hub", "^TestSubscriptionsFitTheMembersWhenEndsAreToldLate$"},
	"a change misses a socket whose client comes back on this node":                      {"../../hub", "^TestAChangeIsNotLostWhileItsClientComesBack$"},
	"a session that waits is forgotten with its node":                                    {"../../webhook", "^TestASessionExpiresOnce$"},
	"who does not answer is not missing":                                                 {"../../cluster", "^TestAQuestionEndsWhenTheLeaseOfWhoIsMissingHas$"},
	"what a node passes on is sent behind later events":                                  {"../../hub", "^TestWhatIsPassedOnTooLateEndsTheSession$"},
	"who finds a node gone does not wait for what it has passed on last":                 {"../../hub", "^TestWhoFindsANodeGoneWaitsForWhatItHasPassedOnLast$"},
	"a room can be queued while a call about it is under way":                            {"../../hub", "^TestARoomThatFailsIsNotTriedForEachJoin$"},
	"what a node has for a socket that has moved ends with it":                           {"../../hub", "^TestANodeThatEndsPassesOnWhatItHasGot$"},
	"a socket takes events for a session that another node has":                          {"../../hub", "^TestASocketTakesNothingWhenItsSessionHasMoved$"},
	"a node that asks again is forgotten, as it did not watch before":                    {"../../presence", "^TestOneThatWatchesAgainAtOnceIsToldOn$"},
}

func allMutants() []mutant {
	return slices.Concat(planted, mutants, revokingMutants, absent, roomMutants, resumed, passedOn, logged)
}

// test is the one that has to find the mutant.
func (m mutant) test() string {
	if d, ok := direct[m.name]; ok {
		return d.test
	}
	if slices.Contains(logged, m) {
		return loggedTests
	}
	if strings.HasPrefix(m.file, "../revoke/") {
		return "^TestRevocations$"
	}
	if slices.ContainsFunc(roomMutants, func(o mutant) bool { return o.name == m.name }) {
		return "^TestRooms$"
	}
	if slices.Contains(resumed, m) {
		return "^TestRecoveries$"
	}
	return "^TestSeeds$"
}

// pkg is the package of that test.
func (m mutant) pkg() string {
	if slices.Contains(logged, m) {
		return "../../hub"
	}
	return cmp.Or(direct[m.name].pkg, ".")
}

// seeds is in how many it has to be found.
func (m mutant) seeds() int {
	if slices.Contains(resumed, m) || slices.Contains(revokingMutants, m) {
		return 1000
	}
	return 5000
}

// path is where the mutant's file is, seen from this folder.
func (m mutant) path() string { return filepath.Join("..", "..", "hub", m.file) }

func (m mutant) apply() (source string, ok bool, err error) {
	text, err := os.ReadFile(m.path())
	if err != nil {
		return "", false, err
	}
	return strings.Replace(string(text), m.old, m.new, 1), strings.Count(string(text), m.old) == 1, nil
}

// Bugs in the source are found by the seeds that CI runs. Each takes a build.
func TestEveryMutantIsFound(t *testing.T) {
	if !*plantSource {
		t.Skip("run by make mutants: each bug takes a build of its own")
	}
	for _, m := range allMutants() {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.find(t)
		})
	}
}

// A bug whose place in the source has changed has to follow it.
func TestEveryMutantFitsTheSource(t *testing.T) {
	all := allMutants()
	t.Logf("%d bugs", len(all))
	for _, m := range all {
		if _, ok, err := m.apply(); err != nil || !ok {
			t.Errorf("%q does not fit hub/%s any more (%v)", m.name, m.file, err)
		}
	}
}

func (m mutant) find(t *testing.T) {
	source, ok, err := m.apply()
	if err != nil || !ok {
		t.Fatalf("does not fit the source (%v)", err)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, filepath.Base(m.file))
	original, err := filepath.Abs(m.path())
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{changed: source, overlay: string(list)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "sim.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, m.pkg()).CombinedOutput(); err != nil {
		t.Fatalf("does not compile: %v\n%s", err, out)
	}
	cmd := exec.Command(binary, "-test.run", m.test(), "-test.timeout", "20m")
	if cmd.Dir = m.pkg(); cmd.Dir == "." {
		cmd.Args = append(cmd.Args, "-enough", "1", "-seeds", strconv.Itoa(count("TETHER_SIM_SEEDS", m.seeds())))
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("not found")
		return
	}
	found := evidence(string(out))
	if strings.HasPrefix(found, "panic: test timed out") {
		t.Fatal("not found in time")
	}
	t.Log(found)
}

// evidence is what a run complained about first.
func evidence(out string) string {
	lines := strings.Split(out, "\n")
	for i, line := range lines {
		if strings.Contains(line, " violations:") && i+1 < len(lines) {
			return strings.TrimSpace(lines[i+1])
		}
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			return line
		}
	}
	return out[:min(len(out), 300)]
}
