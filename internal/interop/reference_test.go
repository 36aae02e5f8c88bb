package interop

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"tether/internal/socketio"
)

// reference is a process with npm's socket.io-parser and engine.io-parser in it: reference.js.
type reference struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer // read once the process has ended
}

// question is what a reference is asked:
//
//	{"ask":"packet","text":…}                what is the Socket.IO packet, with attachments that are one byte, their number?
//	{"ask":"packet","text":…,"attachments":[…]}   what is it with these?
//	{"ask":"payload","text":…}               what are the Engine.IO packets of this body?
//	{"ask":"encode","packet":{…}}            how is this Socket.IO packet written?
//	{"ask":"join","packets":[…]}             how is the body with these Engine.IO packets?
//
// Bytes are base64, in values {"$bin":"<base64>"}.
type question struct {
	Ask         string   `json:"ask"`
	Text        []byte   `json:"text"`
	Attachments [][]byte `json:"attachments,omitempty"`
	Packet      any      `json:"packet,omitempty"`
	Packets     []any    `json:"packets,omitempty"`
}

// reply is the answer to a question.
type reply struct {
	Error string `json:"error"` // of the parser, if it refuses

	Type        socketio.Type `json:"type"` // 5 and 6 have become 2 and 3
	Namespace   string        `json:"namespace"`
	ID          string        `json:"id"` // as JavaScript writes the number; "" for none
	Attachments int           `json:"attachments"`
	None        bool          `json:"none"` // there is no payload
	Data        any           `json:"data"` // with base64 in place of attachments
	Event       string        `json:"event"`

	Packets []enginePacket `json:"packets"`

	Text    []byte   `json:"text"`
	Buffers [][]byte `json:"buffers"`
}

// enginePacket is a packet of a body.
type enginePacket struct {
	Type   string `json:"type"`
	Binary bool   `json:"binary"`
	Data   string `json:"data"` // base64 if binary
}

// startReference skips the test where there is none, unless all real parts are required.
func startReference(t testing.TB) *reference {
	t.Helper()
	node, err := exec.LookPath("node")
	need(t, err)
	modules, err := nodeModules()
	need(t, err)
	for _, name := range []string{"socket.io-parser", "engine.io-parser"} {
		if _, err := os.Stat(filepath.Join(modules, name, "package.json")); err != nil {
			need(t, fmt.Errorf("npm package %s is missing: run npm ci in internal/interop", name))
		}
	}
	r := &reference{cmd: exec.Command(node, "reference.js")}
	r.cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	r.cmd.Stderr = &r.stderr
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdout = bufio.NewReader(stdout)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stdin.Close()
		r.cmd.Wait()
	})
	return r
}

// ask asks. It fails the test when the process has gone, or takes longer than patience.
func (r *reference) ask(t testing.TB, questions ...question) []reply {
	t.Helper()
	kill := time.AfterFunc(patience, func() { r.cmd.Process.Kill() })
	defer kill.Stop()
	line, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.stdin.Write(append(line, '\n')); err != nil {
		t.Fatalf("the reference has gone: %v", err)
	}
	line, err = r.stdout.ReadBytes('\n')
	if err != nil {
		r.cmd.Wait()
		t.Fatalf("the reference has gone: %v\n%s", err, r.stderr.Bytes())
	}
	var replies []reply
	if err := json.Unmarshal(line, &replies); err != nil || len(replies) != len(questions) {
		t.Fatalf("the reference has %d answers to %d questions, %v", len(replies), len(questions), err)
	}
	return replies
}

// difference is something that this side does on purpose in another way than the reference.
type difference struct {
	name string
	is   func(text string, err error, ref reply) bool // err: this side's; nil if it accepts
}

var (
	headerForm = regexp.MustCompile(`^[56][0-9]+-`)
	blankID    = regexp.MustCompile(`^[0-6](?:[0-9]+-)?(?:/[^,]*(?:,|$))?[0-9]*[\s\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}\v]`)
)

// refusedHere are packets that the reference accepts.
var refusedHere = []difference{
	{"text that is not UTF-8: the reference's WebSocket library refuses it before its parser, its polling replaces what is wrong", func(text string, err error, _ reply) bool {
		return err == socketio.ErrUTF8 && !utf8.ValidString(text)
	}},
	{"a type that is missing or a blank, which is 0 to the reference", func(text string, err error, ref reply) bool {
		return (err == socketio.ErrEmpty || err == socketio.ErrType && blankID.MatchString("2"+text)) && ref.Type == socketio.Connect
	}},
	{"limits on depth, arguments, and the lengths of an event's name and a namespace, which the reference does not have", func(text string, err error, ref reply) bool {
		return err == socketio.ErrDepth && strings.Count(text, "[")+strings.Count(text, "{") > socketio.MaxDepth ||
			err == socketio.ErrArgs && strings.Count(text, ",") >= 1024 ||
			err == socketio.ErrEventName && len(text) > 1024 ||
			err == socketio.ErrNamespace && len(ref.Namespace) > 256
	}},
	{"a control character in a namespace", func(_ string, err error, ref reply) bool {
		return err == socketio.ErrNamespace && strings.ContainsFunc(ref.Namespace, func(c rune) bool { return c < ' ' || c == 0x7f })
	}},
	{"a number of attachments that JavaScript reads and the protocol does not know: 1e0, 0x1, 1.0", func(text string, err error, _ reply) bool {
		return err == socketio.ErrAttachments && !headerForm.MatchString(text)
	}},
	{"an ID where none belongs", func(text string, err error, ref reply) bool {
		return err == socketio.ErrID && strings.Contains("014", text[:1]) && ref.ID != ""
	}},
	{"an answer without an ID", func(_ string, err error, ref reply) bool {
		return err == socketio.ErrID && ref.Type == socketio.Ack && ref.ID == ""
	}},
	{"blanks where the ID belongs, which are 0 to the reference", func(text string, err error, ref reply) bool {
		return (err == socketio.ErrID || err == socketio.ErrPayload || err == socketio.ErrJSON) && blankID.MatchString(text) && ref.ID != ""
	}},
	{"a CONNECT_ERROR without payload", func(_ string, err error, ref reply) bool {
		return err == socketio.ErrPayload && ref.Type == socketio.ConnectError && ref.None
	}},
	{"attachments without a payload that they could belong to", func(_ string, err error, ref reply) bool {
		return err == socketio.ErrPayload && ref.Attachments > 0 && ref.None
	}},
	{"a placeholder with other members, or with a number that another one has or that is none", func(text string, err error, ref reply) bool {
		return err == socketio.ErrPlaceholder && ref.Attachments > 0 && oddPlaceholders(text)
	}},
}

// oddPlaceholders reports whether text has a placeholder that no encoder writes.
func oddPlaceholders(text string) bool {
	found, odd := 0, false
	seen := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if v["_placeholder"] == true {
				num := fmt.Sprint(v["num"])
				odd = odd || len(v) != 2 || seen[num] || strings.Trim(num, "0123456789") != ""
				seen[num] = true
				found++
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	d := json.NewDecoder(strings.NewReader(text[strings.IndexByte(text, '['):]))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return false
	}
	walk(v)
	return odd || strings.Count(text, "_placeholder") != found || strings.Count(text, `"num"`) != found // a member twice
}

// acceptedHere are packets that the reference refuses.
var acceptedHere = []difference{
	{"no attachments, announced: an event without binary", func(text string, _ error, ref reply) bool {
		return ref.Error == "Illegal attachments" && regexp.MustCompile(`^[56]0+-`).MatchString(text)
	}},
}

// otherValue are packets that both accept, and understand in different ways.
var otherValue = []difference{
	{"an ID that JavaScript's numbers do not hold", func(_ string, _ error, ref reply) bool {
		f, err := strconv.ParseFloat(ref.ID, 64)
		return err == nil && f >= 1<<53
	}},
	{"blanks before the payload, which are a part of the ID to the reference", func(text string, _ error, ref reply) bool {
		return blankID.MatchString(text) && ref.ID != ""
	}},
}

// read is what this side makes of a packet whose attachments are one byte, their number, in the form of
// the reference's reply.
func read(text []byte) (r reply, err error) {
	p, err := socketio.Parse(text, socketio.Limits{})
	if err != nil {
		return r, err
	}
	attachments := make([][]byte, p.Attachments)
	for i := range attachments {
		attachments[i] = []byte{byte(i)}
	}
	return readWith(p, attachments)
}

func readWith(p socketio.Packet, attachments [][]byte) (r reply, err error) {
	r = reply{Type: p.Type, Namespace: p.Namespace, Attachments: p.Attachments, None: p.Data == nil, Event: string(p.Event)}
	if p.Type.Binary() {
		r.Type -= socketio.BinaryEvent - socketio.Event
	}
	if p.HasID {
		r.ID = strconv.FormatUint(p.ID, 10)
	}
	if p.Data == nil {
		return r, nil
	}
	data := p.Data
	if p.Type.Binary() {
		data = socketio.AppendReplaced(nil, data, attachments)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&r.Data); err != nil {
		return r, fmt.Errorf("a payload that was accepted does not decode: %w", err)
	}
	r.Data = numbers(r.Data)
	r.Event = strings.ToValidUTF8(r.Event, "\ufffd")
	return r, nil
}

// numbers replaces the numbers in v by what JavaScript has for them.
func numbers(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil && math.IsInf(f, 0) {
			return map[string]any{"$number": strings.Replace(strings.TrimPrefix(fmt.Sprint(f), "+"), "Inf", "Infinity", 1)}
		}
		return f
	}
	return v
}

// agree compares what both sides make of a packet. It returns the difference that was found, or "".
func agree(text []byte, ref reply) (known string, err error) {
	got, ours := read(text)
	find := func(list []difference) string {
		for _, d := range list {
			if d.is(string(text), ours, ref) {
				return d.name
			}
		}
		return ""
	}
	switch {
	case ours != nil && ref.Error != "":
		return "", nil
	case ours != nil:
		if known = find(refusedHere); known == "" {
			err = fmt.Errorf("refused here (%v), and there %+v", ours, ref)
		}
	case ref.Error != "":
		if known = find(acceptedHere); known == "" {
			err = fmt.Errorf("refused there (%s), and here %+v", ref.Error, got)
		}
	case !reflect.DeepEqual(got, ref):
		if known = find(otherValue); known == "" {
			err = fmt.Errorf("here %+v, and there %+v", got, ref)
		}
	}
	return known, err
}

var engineTypes = []string{"open", "close", "ping", "pong", "message", "upgrade", "noop"}

// agreeOnPayload is agree for the body of a polling request.
func agreeOnPayload(body []byte, ref reply) (known string, err error) {
	var got []enginePacket
	var ours error
	for p, err := range socketio.Payload(body) {
		if err != nil {
			ours = err
			got = append(got, enginePacket{Type: "error"})
			break
		}
		data := string(p.Data)
		if p.Binary {
			data = base64.StdEncoding.EncodeToString(p.Data)
		}
		got = append(got, enginePacket{engineTypes[p.Type-'0'], p.Binary, data})
	}
	want := ref.Packets
	if n := len(want); n > 0 && want[n-1].Type == "error" {
		want[n-1].Data = ""
	}
	if reflect.DeepEqual(got, want) {
		return "", nil
	}
	switch n := len(got); {
	case ours == socketio.ErrBase64 && len(want) >= n && want[n-1].Binary && (reflect.DeepEqual(got[:n-1], want[:n-1]) || !utf8.Valid(body) && sameKinds(got[:n-1], want[:n-1])):
		return "base64 that is none: the reference takes of it what it can", nil
	case !utf8.Valid(body) && sameKinds(got, want):
		return "a body that is not UTF-8: the reference replaces what is wrong, here the packet's own parser refuses it", nil
	}
	return "", fmt.Errorf("here %+v, %v, and there %+v", got, ours, want)
}

func sameKinds(a, b []enginePacket) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Type != b[i].Type || a[i].Binary != b[i].Binary {
			return false
		}
	}
	return true
}

// TestTheReferenceUnderstandsPacketsAlike asks the reference about packets and bodies that a generator
// made of what clients send, damaged or not. Every disagreement has to be in the lists above, and every
// entry of the lists has to come up.
func TestTheReferenceUnderstandsPacketsAlike(t *testing.T) {
	t.Parallel()
	const batches, perBatch = 100, 200
	ref := startReference(t)
	g := newGenerator(1)
	seen := map[string]int{}
	alike, refused := 0, 0
	for range batches {
		var questions []question
		for i := range perBatch {
			if i%4 == 0 {
				questions = append(questions, question{Ask: "payload", Text: g.body()})
			} else {
				questions = append(questions, question{Ask: "packet", Text: g.packet()})
			}
		}
		for i, reply := range ref.ask(t, questions...) {
			q, compare := questions[i], agree
			if q.Ask == "payload" {
				compare = agreeOnPayload
			}
			known, err := compare(q.Text, reply)
			switch {
			case err != nil:
				t.Errorf("%s %.300q: %.600s", q.Ask, q.Text, err)
			case known != "":
				seen[known]++
			case reply.Error != "":
				refused++
			default:
				alike++
			}
		}
	}
	t.Logf("figure: %d inputs: %d accepted and understood alike, %d refused by both", batches*perBatch, alike, refused)
	for name, n := range seen {
		t.Logf("%5d × %s", n, name)
	}
	for _, list := range [][]difference{refusedHere, acceptedHere, otherValue} {
		for _, d := range list {
			if seen[d.name] == 0 {
				t.Errorf("never came up: %s", d.name)
			}
		}
	}
	if alike < batches*perBatch/4 || refused < batches*perBatch/10 {
		t.Error("the generator makes too little that is accepted, or refused")
	}
}

// FuzzReference goes on where the test of a fixed seed ends. The input is a packet, or after a "p" the
// body of a polling request.
func FuzzReference(f *testing.F) {
	ref := startReference(f)
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	for _, s := range bodies {
		f.Add([]byte("p" + s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 16<<10 {
			return
		}
		ask, compare := "packet", agree
		if len(in) > 0 && in[0] == 'p' {
			in, ask, compare = in[1:], "payload", agreeOnPayload
		}
		if _, err := compare(in, ref.ask(t, question{Ask: ask, Text: in})[0]); err != nil {
			t.Errorf("%q: %s", in, err)
		}
	})
}
