package docs

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of limits into reliability.md")

// tableLimit is a row of the table: an option, or a constant. Its default is read from the source.
type tableLimit struct {
	file  string // below the root
	owner string // the struct; "" for a constant
	name  string
	value string // of a constant, for people
	is    string // of a constant, as it stands in the source
	sees  string // what happens to the one that passes it
	test  string // file:TestName
}

var limits = []tableLimit{
	{file: "hub/options.go", owner: "Limits", name: "Namespaces", sees: "CONNECT_ERROR `too many namespaces`; the connection stays", test: "hub/limits_test.go:TestLimitOfNamespaces"},
	{file: "hub/options.go", owner: "Limits", name: "Rooms", sees: "nothing: `Join` returns `ErrTooMany`", test: "hub/limits_test.go:TestLimitOfRooms"},
	{file: "hub/options.go", owner: "Limits", name: "Auth", sees: "CONNECT_ERROR `auth is too large`; the connection stays", test: "hub/protocol_test.go:TestAnswersToCONNECT"},
	{file: "hub/options.go", owner: "Limits", name: "Depth", sees: "the connection is closed, `parse error`", test: "hub/limits_test.go:TestLimitsOnPackets"},
	{file: "hub/options.go", owner: "Limits", name: "Args", sees: "the connection is closed, `parse error`", test: "hub/limits_test.go:TestLimitsOnPackets"},
	{file: "hub/options.go", owner: "Limits", name: "EventName", sees: "the connection is closed, `parse error`", test: "hub/limits_test.go:TestLimitsOnPackets"},
	{file: "hub/options.go", owner: "Limits", name: "Namespace", sees: "the connection is closed, `parse error`", test: "hub/limits_test.go:TestLimitsOnPackets"},
	{file: "hub/options.go", owner: "Limits", name: "Attachments", sees: "the connection is closed, `parse error`", test: "hub/limits_test.go:TestLimitsOnPackets"},
	{file: "hub/options.go", owner: "Limits", name: "PacketBytes", sees: "the connection is closed, `parse error`", test: "hub/limits_test.go:TestLimitsOnPackets"},
	{file: "hub/options.go", owner: "Limits", name: "TotalHandshakeBytes", sees: "the connection that began first is closed, `forced close`", test: "transport/limits_test.go:TestHandshakesThatLeadToNothingHaveABudget"},
	{file: "hub/options.go", owner: "Limits", name: "TotalAttachmentBytes", sees: "the connection whose packet began first is closed, `transport error`", test: "hub/incomplete_test.go:TestTheBudgetOfHalfPackets"},
	{file: "hub/options.go", owner: "Limits", name: "Acks", sees: "nothing: `EmitAck` returns `ErrTooMany`", test: "hub/event_test.go:TestWaitingForAnAnswerEnds"},
	{file: "hub/options.go", owner: "Limits", name: "Events", sees: "its messages are not read for a while; at twice the limit the connection is closed, `transport error`", test: "hub/limits_test.go:TestLimitOfEventsInFlight"},
	{file: "hub/options.go", owner: "Limits", name: "EventBytes", sees: "as for Events", test: "hub/limits_test.go:TestLimitOfEventsInFlight"},
	{file: "hub/options.go", owner: "Limits", name: "Held", sees: "the connection is closed, `forced server close`", test: "hub/limits_test.go:TestLimitOfHeldPackets"},
	{file: "hub/options.go", owner: "Limits", name: "HeldBytes", sees: "as for Held", test: "hub/limits_test.go:TestLimitOfHeldPackets"},
	{file: "hub/options.go", owner: "Options", name: "ConnectTimeout", sees: "the connection is closed, `forced close`", test: "hub/run_test.go:TestTimeouts"},
	{file: "hub/options.go", owner: "Options", name: "HookTimeout", sees: "the connection is closed, `forced server close`, and it may come back", test: "hub/run_test.go:TestTimeouts"},
	{file: "hub/options.go", owner: "Options", name: "AttachmentTimeout", sees: "the connection is closed, `parse error`", test: "hub/run_test.go:TestTimeouts"},
	{file: "hub/options.go", owner: "Options", name: "DrainWindow", sees: "its connection is closed at some moment of the window, and it comes back elsewhere", test: "hub/run_test.go:TestADrainIsSpreadOverItsWindow"},
	{file: "hub/options.go", owner: "Devices", name: "Max", value: "no limit", sees: "CONNECT_ERROR `too many devices`, or the oldest device DISCONNECT", test: "hub/register_test.go:TestNewDevicesAreRefused"},
	{file: "hub/envelope.go", name: "maxTargets", value: "256", is: "256", sees: "nothing: the emitter returns `ErrTooMany`", test: "hub/emit_limits_test.go:TestLimitOfTargets"},
	{file: "hub/overflow.go", name: "maxKey", value: "256 bytes of the key of an event that replaces others", is: "256", sees: "nothing: the emit returns an error", test: "hub/overflow_test.go:TestTermsReachTheConnection"},
	{file: "engine/packet.go", name: "MaxAttachments", value: "10", is: "10", sees: "nothing: the emit returns `ErrTooMany`", test: "hub/emit_limits_test.go:TestLimitOfAttachments"},

	{file: "transport/options.go", owner: "Options", name: "MaxConns", value: "no limit", sees: "the handshake gets 503 with Retry-After", test: "transport/limits_test.go:TestLimitOfConnections"},
	{file: "transport/options.go", owner: "Options", name: "TotalQueueBytes", sees: "the connection with the longest queue is closed", test: "transport/budget_test.go:TestTheBudgetOfAllQueues"},
	{file: "transport/options.go", owner: "Options", name: "UnfinishedBytes", sees: "the connection whose message began first is closed", test: "transport/incomplete_test.go:TestTheBudgetOfHalfMessages"},
	{file: "transport/options.go", owner: "Options", name: "KernelBuffer", sees: "nothing: what waits is in its queue", test: "transport/kernel_linux_test.go:TestWhatTheKernelHoldsForAClientIsBounded"},
	{file: "transport/options.go", owner: "Options", name: "ControlRate", sees: "close code 1008", test: "transport/ratelimit_test.go:TestWhatCarriesNothingHasABudget"},
	{file: "transport/options.go", owner: "Options", name: "MessageRate", value: "no limit", sees: "its messages are read no faster", test: "transport/ratelimit_test.go:TestMessagesAreReadAtTheirRate"},
	{file: "transport/options.go", owner: "Options", name: "MaxPayload", sees: "close code 1009, or 413", test: "transport/limits_test.go:TestLimitOfPayload"},
	{file: "transport/options.go", owner: "Options", name: "QueueBytes", sees: "by Overflow: the connection is closed, or packets are dropped", test: "transport/slow_consumer_test.go:TestTheQueueHoldsWhatItsLimitSays"},
	{file: "transport/options.go", owner: "Options", name: "WriteTimeout", sees: "the connection is closed", test: "transport/limits_test.go:TestLimitOfTheTimeOfAWrite"},
	{file: "transport/options.go", owner: "Options", name: "MessageTimeout", sees: "the connection is closed", test: "transport/limits_test.go:TestLimitOfTheTimeOfAMessage"},
	{file: "transport/options.go", owner: "Options", name: "PingInterval", sees: "a ping", test: "transport/heartbeat_test.go:TestPingsComeAnIntervalAfterThePong"},
	{file: "transport/options.go", owner: "Options", name: "PingTimeout", sees: "the connection is closed, `ping timeout`", test: "transport/limits_test.go:TestLimitOfTheTimeOfAPong"},
	{file: "transport/options.go", owner: "Options", name: "UpgradeTimeout", sees: "the probe's connection is closed; polling goes on", test: "transport/limits_test.go:TestLimitOfTheTimeOfAnUpgrade"},
	{file: "transport/options.go", owner: "Options", name: "UpgradeWait", sees: "its session stays on its node; polling goes on", test: "relay/move_test.go:TestWhatIsKeptForAnUpgradeIsKeptForAMoment"},
	{file: "transport/fresh.go", name: "freshLimit", value: "64 KiB that a client sends before that", is: "64 << 10", sees: "its session stays on its node", test: "relay/move_test.go:TestWhatIsKeptForAnUpgradeIsKeptForAMoment"},
	{file: "transport/frame.go", name: "maxFragments", value: "1,024 fragments of one message", is: "1024", sees: "close code 1008", test: "transport/rfc6455_test.go:TestRFC6455"},
	{file: "transport/frame.go", name: "maxControl", value: "125 bytes of a control frame", is: "125", sees: "close code 1002", test: "transport/rfc6455_test.go:TestRFC6455"},
	{file: "transport/incoming.go", name: "pongBytes", value: "16 answers to pings of the largest size that wait", is: "16 * (2 + maxControl)", sees: "the pings before are not answered", test: "transport/frame_test.go:TestPongsThatWaitAreLimited"},
	{file: "transport/polling.go", name: "payloadPackets", value: "16 packets in one polling response", is: "16", sees: "the rest in its next response", test: "transport/polling_test.go:TestAResponseHasAtMostSixteenPackets"},
	{file: "transport/polling.go", name: "pollCloseWait", value: "30 s for the GET that takes the last packets", is: "30 * time.Second", sees: "its session has ended", test: "transport/limits_test.go:TestLimitOfTheTimeToTakeTheLastPackets"},
	{file: "transport/polling.go", name: "pollShutdownWait", value: "2 s for that GET in a shutdown", is: "2 * time.Second", sees: "its session has ended", test: "transport/limits_test.go:TestLimitOfTheTimeToTakeTheLastPackets"},
	{file: "transport/polling.go", name: "byeWait", value: "5 s for the GET that hears why a session has ended", is: "5 * time.Second", sees: "400, as for any session that is not there", test: "transport/limits_test.go:TestAClientAtFaultIsNotWaitedFor"},
	{file: "transport/server.go", name: "headerTime", value: "10 s for the head of a request", is: "10 * time.Second", sees: "the connection is closed", test: "transport/server_test.go:TestARequestWhoseHeadDoesNotComeEndsTheConnection"},
	{file: "transport/server.go", name: "headerBytes", value: "64 KiB of the head of a request", is: "64 << 10", sees: "431", test: "transport/server_test.go:TestTheHeadOfARequestIsLimited"},
	{file: "transport/server.go", name: "bodyTime", value: "10 s for each 64 KiB of a body", is: "10 * time.Second", sees: "the connection is closed", test: "transport/server_test.go:TestABodyThatDoesNotComeEndsTheConnection"},
	{file: "transport/server.go", name: "answerTime", value: "20 s for each 64 KiB of an answer", is: "20 * time.Second", sees: "the connection is closed", test: "transport/server_test.go:TestAClientThatDoesNotTakeItsAnswerIsGivenUp"},
	{file: "transport/server.go", name: "idleTime", value: "2 min until the next request", is: "2 * time.Minute", sees: "the connection is closed", test: "transport/server_test.go:TestARequestWhoseHeadDoesNotComeEndsTheConnection"},

	{file: "broker/redis/redis.go", owner: "Options", name: "PublishTimeout", sees: "nothing: Emit fails with `broker.ErrUnavailable`", test: "broker/redis/timeout_test.go:TestLimitsOnTheSilenceOfTheServer"},
	{file: "broker/redis/redis.go", owner: "Options", name: "SubscribeTimeout", sees: "its connection is closed, and it comes back", test: "broker/redis/timeout_test.go:TestLimitsOnTheSilenceOfTheServer"},
	{file: "broker/redis/redis.go", owner: "Options", name: "MaxMessage", sees: "nothing: Emit fails with `broker.ErrTooLarge`", test: "broker/redis/redis_test.go:TestBrokerContract"},
	{file: "broker/redis/flow.go", name: "flowWindow", value: "4 MiB that a node has published through Redis and not read yet", is: "4 << 20", sees: "nothing: Emit waits", test: "broker/redis/overrun_test.go:TestANodeDoesNotPublishMoreThanItReads"},
	{file: "broker/nats/nats.go", owner: "Options", name: "MaxPending", sees: "messages are missing, and a gap says so", test: "broker/nats/deliver_test.go:TestWhatWaitsForDeliverIsBounded"},
	{file: "broker/memory/subscription.go", name: "maxWaiting", value: "1,024 messages for one node and room", is: "1024", sees: "nothing: Emit waits", test: "broker/memory/memory_test.go:TestPublishersBehindABlockedDeliverQueueInOrderAndThenWait"},
}

// Fields of the structs above that are no limits.
var noLimits = map[string]bool{
	"hub/options.go Options Limits": true, "hub/options.go Options Devices": true, "hub/options.go Options Greeting": true, "hub/options.go Options ExpiryNotice": true,
	"hub/options.go Devices RefuseNew": true, "transport/options.go Options Overflow": true, "transport/options.go Options CompressPolling": true,
}

func parseGo(t *testing.T, path string) (*ast.File, []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f, text
}

// fields are the numbers and durations of a struct, by name, with their comments.
func fields(t *testing.T, path, owner string) map[string]string {
	t.Helper()
	f, _ := parseGo(t, path)
	found := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != owner {
			return true
		}
		list, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range list.Fields.List {
			kind := fmt.Sprint(field.Type)
			if sel, ok := field.Type.(*ast.SelectorExpr); ok {
				kind = sel.Sel.Name
			}
			if kind != "int" && kind != "Duration" {
				continue
			}
			for _, name := range field.Names {
				found[name.Name] = strings.Join(strings.Fields(field.Doc.Text()+" "+field.Comment.Text()), " ")
			}
		}
		return false
	})
	return found
}

var inComment = regexp.MustCompile(`Default(?: and maximum)?:? (.+?)(?:\. |\.$|;|: |, (?:two|if|after)|$)`)

// constant is the value of a constant as it stands in the source.
func constant(t *testing.T, path, name string) string {
	t.Helper()
	f, text := parseGo(t, path)
	value := ""
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for i, id := range spec.Names {
				if id.Name == name && i < len(spec.Values) {
					value = string(text[spec.Values[i].Pos()-1 : spec.Values[i].End()-1])
				}
			}
		}
		return true
	})
	return value
}

func (l tableLimit) row(t *testing.T) string {
	t.Helper()
	def, option := l.value, "fixed"
	if l.owner != "" {
		comment, ok := fields(t, l.file, l.owner)[l.name]
		if !ok {
			t.Errorf("%s has no option %s.%s", l.file, l.owner, l.name)
		}
		if m := inComment.FindStringSubmatch(comment); m != nil && def == "" {
			def = strings.Trim(m[1], "[]")
		}
		if def == "" {
			t.Errorf("%s: %s.%s does not say its default: %s", l.file, l.owner, l.name, comment)
		}
		option = "`" + filepath.Base(filepath.Dir(l.file)) + "." + l.owner + "." + l.name + "`"
	} else if is := constant(t, l.file, l.name); is != l.is {
		t.Errorf("%s: %s is %q, the table has %q", l.file, l.name, is, l.is)
	}
	path, name, _ := strings.Cut(l.test, ":")
	if text, err := os.ReadFile(filepath.Join("..", path)); err != nil || !bytes.Contains(text, []byte("func "+name+"(")) {
		t.Errorf("%s: there is no test %s", l.name, l.test)
	}
	return fmt.Sprintf("| %s | %s | %s | [`%s`](../%s) |\n", def, option, l.sees, name, path)
}

const (
	tableBegin = "<!-- Made from docs/limits_test.go and the sources by: go test ./docs -run TableOfLimits -update -->\n"
	tableEnd   = "<!-- end of the table -->\n"
)

func TestTheTableOfLimitsIsCurrent(t *testing.T) {
	known := map[string]bool{}
	structs := map[[2]string]bool{}
	table := "\n| default | option | what the client sees past it | test at the limit |\n|---|---|---|---|\n"
	for _, l := range limits {
		table += l.row(t)
		known[l.file+" "+l.owner+" "+l.name] = true
		if l.owner != "" && !strings.HasPrefix(l.file, "broker/") {
			structs[[2]string{l.file, l.owner}] = true
		}
	}
	for s := range structs { // a new limit belongs into the table
		for name := range fields(t, s[0], s[1]) {
			if key := s[0] + " " + s[1] + " " + name; !known[key] && !noLimits[key] {
				t.Errorf("%s.%s of %s is not in the table", s[1], name, s[0])
			}
		}
	}
	page, err := os.ReadFile("reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegin)
	_, after, ends := strings.Cut(rest, tableEnd)
	if !ok || !ends {
		t.Fatal("reliability.md has no place for the table")
	}
	want := before + tableBegin + table + "\n" + tableEnd + after
	if want == string(page) {
		return
	}
	if !*update {
		t.Fatal("reliability.md has another table: go test ./docs -run TableOfLimits -update")
	}
	if err := os.WriteFile("reliability.md", []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
