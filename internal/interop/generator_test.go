package interop

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// seeds are packets as clients write them, and as they should not.
var seeds = []string{
	`0`, `0{"token":"T"}`, `0/admin,{"token":"ok"}`, `0/custom`, `1`, `1/admin,`, `2["a"]`, `2["echo-back","a",{"b":1}]`,
	`27["ack","x"]`, `37["x"]`, `30[]`, `30`, `2[1]`, `2[1e3,2]`, `2/,["a"]`, `2/admin,13["x",null]`, `4{"message":"no"}`, `4"no"`,
	`51-["hi",1,{"_placeholder":true,"num":0}]`, `51-0["hi",1,{"_placeholder":true,"num":0}]`,
	`61-0["ok",1,{"num":0,"_placeholder":true}]`, `52-/admin,13["x",{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1}]}]`,
	`51-["a",{"_placeholder":true,"num":1}]`, `51-["a",{"_placeholder":true,"num":-1}]`, `51-["a",{"_placeholder":true,"num":"splice"}]`,
	`51-["a",{"_placeholder":true,"num":0,"x":1}]`, `51-["a",{"_placeholder":true,"num":0.5}]`, `51-["a",{"_placeholder":true}]`,
	`52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]`, `51-["a",{"_placeholder":false,"num":0}]`, `51-["a"]`,
	`50-["a"]`, `511-["a"]`, `510-["a"]`, `51e0-["a"]`, `5-["a"]`, `5["a"]`, `51-`, `61-0`,
	`2["connect"]`, `2["disconnect"]`, `2["newListener"]`, `2["\u0063onnect"]`, `2[]`, `2{}`, `2["a"`, `2[null]`, `2[["a"]]`, `20`, `7`, ``, `x`,
	`1{}`, `1 `, `0[]`, `0null`, `4`, `4[]`, `44["a"]`, `3["a"]`, `2a["b"]`, `218446744073709551616["a"]`, `29007199254740993["a"]`, `2-1["a"]`, `2 ["a"]`, `21 ["a"]`, `2["a"] `,
	`2["\ud800","é","😀",1e999,-1e999,-0,1e-999,12345678901234567890]`, `2["a",{"__proto__":{"x":1},"constructor":1,"a":1,"a":2}]`, `2/a` + "\x01" + `,["a"]`, "2[\"\x1e\"]", "2[\"a\xff\"]",
	`{"_placeholder":true,"num":0}`, `2["a",{"_placeholder":true,"num":0}]`,
}

// bodies are those of polling requests.
var bodies = []string{
	"40", "40\x1e42[\"a\"]", "42[\"a\"]\x1ebAQID\x1e3", "", "\x1e", "4\x1e\x1e4", "b", "bAQ", "bAQ==", "bAQI=", "b====", "b$$", "bA-_A", "bAQ ID", "6\x1e1", "2probe", "3probe", "5", "9", "x", "0{}", "4é\x1e4😀", "4\xff", "b\xff", "1", "bAQID\x1ebBAUG",
}

// generator makes inputs.
type generator struct {
	*rand.Rand
	names []string // of the members of things
}

func newGenerator(seed uint64) generator {
	return generator{rand.New(rand.NewPCG(seed, seed)), []string{"a", "b", "é", "num", "__proto__", "0", "<&>"}}
}

func oneOf[T any](g generator, of []T) T { return of[g.IntN(len(of))] }

// packet is a Socket.IO packet, damaged more often than not.
func (g generator) packet() []byte {
	var b []byte
	switch n := g.IntN(100); {
	case n < 20:
		b = []byte(oneOf(g, seeds))
	case n < 21:
		b = g.large()
	default:
		b = g.whole()
	}
	for range oneOf(g, []int{0, 0, 0, 1, 1, 2, 3, 5}) {
		b = g.damage(b, seeds)
	}
	return b
}

// whole is a packet that is in order, or nearly so.
func (g generator) whole() []byte {
	kind := oneOf(g, []int{0, 1, 2, 2, 2, 2, 3, 4, 5, 5, 5, 6})
	n := g.IntN(4)
	var b strings.Builder
	fmt.Fprint(&b, kind)
	if kind >= 5 {
		fmt.Fprintf(&b, "%d-", n)
	}
	b.WriteString(oneOf(g, []string{"", "", "", "/,", "/admin,", "/a/b?c=d,", "/é,", "/x"}))
	if acks := kind == 3 || kind == 6; acks || g.IntN(3) == 0 && kind != 0 && kind != 1 && kind != 4 {
		b.WriteString(oneOf(g, []string{"0", "1", "7", "13", "007", "123456", "9007199254740992", "99999999999999999999"}))
	}
	switch kind {
	case 0:
		b.WriteString(oneOf(g, []string{"", "{}", `{"token":"x"}`, g.value(3)}))
	case 1:
		b.WriteString(oneOf(g, []string{"", "", g.value(1)}))
	case 4:
		b.WriteString(oneOf(g, []string{`"no"`, `{"message":"no"}`, "", g.value(2)}))
	default:
		if g.IntN(10) == 0 {
			break
		}
		elements := []string{oneOf(g, []string{`"a"`, `"message"`, `"é\n"`, "1", "-1.5e3", `"connect"`, `""`, "null"})}
		for range g.IntN(4) {
			elements = append(elements, g.value(4))
		}
		for i := range n {
			at := 1 + g.IntN(len(elements))
			p := fmt.Sprintf(oneOf(g, []string{`{"_placeholder":true,"num":%d}`, `{"_placeholder":true,"num":%d}`, `{"num":%d,"_placeholder":true}`,
				`{"x":{"_placeholder":true,"num":%d}}`, `[{"_placeholder": true, "num": %d }]`, `{"_placeholder":true,"num":%d,"x":0}`, `{"_placeholder":true,"num":1%d}`, `{"_placeholder":true,"num":%d.5}`}), i)
			elements = append(elements[:at], append([]string{p}, elements[at:]...)...)
		}
		b.WriteString("[" + strings.Join(elements, oneOf(g, []string{",", ",", " , ", "\n,"})) + "]")
	}
	return []byte(b.String())
}

// value is JSON text.
func (g generator) value(depth int) string {
	switch n := g.IntN(12); {
	case n == 0 && depth > 0:
		var all []string
		for range g.IntN(4) {
			all = append(all, g.value(depth-1))
		}
		return "[" + strings.Join(all, ",") + "]"
	case n <= 2 && depth > 0:
		var all []string
		for range g.IntN(4) {
			all = append(all, oneOf(g, []string{`"a"`, `"b"`, `"num"`, `"_placeholder"`, `"__proto__"`, `"\u0061"`, `"0"`})+":"+g.value(depth-1))
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	return oneOf(g, []string{"0", "-0", "1", "1.5", "-1e-7", "1e21", "1e400", "123456789012345678901234567890", "true", "false", "null", `""`, `"text"`, `"\"\\\/\b\f\n\r\t"`,
		`"\u00e9\ud83d\ude00"`, `"\ud800"`, `"é😀` + "\u2028" + `"`, "01", ".5", "1.", "+1", "NaN", `'a'`, `"a`, "\"\x01\""})
}

// large is a packet at, or past, one of the limits that the reference does not have.
func (g generator) large() []byte {
	deep := 510 + g.IntN(4)
	switch g.IntN(4) {
	case 0:
		return []byte(`2["a",` + strings.Repeat("[", deep) + strings.Repeat("]", deep) + "]")
	case 1:
		return []byte(`2["a"` + strings.Repeat(",1", 1022+g.IntN(3)) + "]")
	case 2:
		return []byte(`2["` + strings.Repeat("x", 1021+g.IntN(4)) + `"]`)
	default:
		return []byte(`2/` + strings.Repeat("x", 254+g.IntN(3)) + `,["a"]`)
	}
}

// body is that of a polling request, damaged or not.
func (g generator) body() []byte {
	var packets []string
	for range 1 + g.IntN(4) {
		switch g.IntN(5) {
		case 0:
			packets = append(packets, oneOf(g, bodies))
		case 1:
			raw := make([]byte, g.IntN(12))
			for i := range raw {
				raw[i] = byte(g.Uint32())
			}
			packets = append(packets, "b"+base64.StdEncoding.EncodeToString(raw))
		default:
			packets = append(packets, "4"+string(g.whole()))
		}
	}
	b := []byte(strings.Join(packets, "\x1e"))
	for range oneOf(g, []int{0, 0, 0, 1, 2}) {
		b = g.damage(b, bodies)
	}
	return b
}

var pieces = []string{"0", "1", "9", "-", "/", ",", `"`, "[", "]", "{", "}", ":", ".", "e", " ", "\t", "\n", "\v", "\u00a0", "\ufeff", `\`, `\u`, "_placeholder", `"num":`, "true", "null",
	"\x1e", "\x00", "\x7f", "é", "\u2028", "\xff", "\xc3", "b", "=", "+", "1e0", "0x1", "99999999999999999999", `{"_placeholder":true,"num":0}`}

// damage changes b a little.
func (g generator) damage(b []byte, others []string) []byte {
	if len(b) == 0 {
		return []byte(oneOf(g, pieces))
	}
	at := g.IntN(len(b))
	if g.IntN(3) == 0 {
		at = g.IntN(min(len(b), 4)) // the header
	}
	end := min(len(b), at+1+g.IntN(4))
	keep := func(middle string) []byte { return []byte(string(b[:at]) + middle + string(b[end:])) }
	switch g.IntN(6) {
	case 0:
		return keep("")
	case 1:
		return keep(oneOf(g, pieces))
	case 2:
		end = at
		return keep(oneOf(g, pieces))
	case 3:
		return keep(string(b[at:end]) + string(b[at:end]))
	case 4:
		other := oneOf(g, others)
		if other == "" {
			return b[:at]
		}
		return []byte(string(b[:at]) + other[g.IntN(len(other)):])
	default:
		c := string([]byte{b[at] ^ 1<<g.IntN(8)})
		end = at + 1
		return keep(c)
	}
}

// thing is a value for an argument, with bytes as {"$bin":…} where it is asked for, and as text where it is
// received.
func (g generator) thing(depth int, binary bool) any {
	switch n := g.IntN(14); {
	case n < 2 && depth > 0:
		all := []any{}
		for range g.IntN(4) {
			all = append(all, g.thing(depth-1, binary))
		}
		return all
	case n < 5 && depth > 0:
		all := map[string]any{}
		for range g.IntN(4) {
			all[oneOf(g, g.names)] = g.thing(depth-1, binary)
		}
		return all
	case n < 7 && binary:
		raw := make([]byte, g.IntN(8))
		for i := range raw {
			raw[i] = byte(g.Uint32())
		}
		return bytesOf(raw)
	}
	return oneOf(g, []any{nil, true, false, 0.0, -1.5, 1e21, 1e-7, 123456789.0, "", "text", "é😀\u2028\u0000\"\\", "_placeholder", "</script>"})
}

// bytesOf are bytes in a value.
type bytesOf []byte

// MarshalJSON writes them as the reference is told of them.
func (b bytesOf) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string][]byte{"$bin": b})
}
