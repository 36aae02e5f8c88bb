package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// vectors were sealed by Dream's own code.
var vectors = []struct{ key, plain, token string }{
	{
		"C5htavmWz6qefupiS2ol3iEstvDvUqtCA5DoX+csIFA=", `"123"`,
		"eyJjaXBoZXJ0ZXh0IjoiQzhrZkNEZz0iLCJpdiI6IkJvWUJodWgyK292NlJYSi8iLCJ0YWciOiJJNitkS1FMSjhUaUNtejAyWVR2NFVBPT0ifQ==",
	},
	{
		"78p2f0eZCUNgqGc72rKjfmxviWYq5Ee1HkfSWT+swRI=", `42`,
		"eyJjaXBoZXJ0ZXh0IjoiSzNjPSIsIml2IjoiYW5yUTBRUWhuQ0QvNWlJVCIsInRhZyI6IjdyeTU5cWFvNUJ4R0xxeVhsQ05RREE9PSJ9",
	},
	{
		"4wq3JT8KzqK2R15wyX43tvDC/FNQnYWxqLDLk07JMCs=",
		`{"user_id":"0195f3c2-7d1e-7c11-9a3a-2b6f2f3f9f00","roles":["admin","staff"],"exp":1893456000}`,
		"eyJjaXBoZXJ0ZXh0IjoiQXZQZ3RkR3RiWEVUSHl5VHVLS3oyQjJpYVJZOTNzdjFCZmovVU1JUDFPRkdvUkhBM1VzWWthejFURmEyaVJVRlVmN2FGQ3pZQkV1cXhrRmpsVjBZaTd1R1ZBazhWVVdtMEY0MEh6QXFSaE16clVHMng0cGp0empWdFgxTSIsIml2IjoiWEpHam1qMXdqT3pRMnAzeSIsInRhZyI6InUrY2hQRzRhUGJEMFFCN2Q3ZVRNSHc9PSJ9",
	},
	{
		"fVJB/vcjr78u4wlQSPjieJ114WxuKdz3k+a6VrSVL2w=", `"héllo – €uro 😀"`,
		"eyJjaXBoZXJ0ZXh0IjoiVWtISEJ1cVVIdGNrd216OVNxV0pWaGN1YzUvdEhNbnkiLCJpdiI6Ik8vMDRUT0JyVjlaemNJSisiLCJ0YWciOiJtZDFrbzhEd1pYUlEwN20xMmVaT0d3PT0ifQ==",
	},
	{
		"uSe6FiB64jGI95kZQ+fzdMGH6t75roo1aStpYkVLj9Y=", `[true,null,1.5,""]`,
		"eyJjaXBoZXJ0ZXh0IjoiRDRCRW55Mk1RWWl0S2ZDZ0s2RUlIcUN3IiwiaXYiOiJIQUttQjM4YndEaXZqb2QxIiwidGFnIjoiRUI4ek9HUE56SWhtYUhXQmJzRnJPUT09In0=",
	},
}

func key(t testing.TB, text string) Key {
	t.Helper()
	k, err := NewKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKeyring(t testing.TB) *Keyring { return NewKeyring(key(t, GenerateKey())) }

func TestTokensOfDreamOpen(t *testing.T) {
	for _, v := range vectors {
		var got json.RawMessage
		if err := NewKeyring(key(t, v.key)).Open(v.token, &got); err != nil || string(got) != v.plain {
			t.Errorf("Open = %s, %v; want %s", got, err, v.plain)
		}
	}
}

func TestSealMakesTheBytesThatDreamMakes(t *testing.T) {
	for _, v := range vectors {
		iv, _, ok := parse(v.token)
		if !ok {
			t.Fatal("the vector does not parse")
		}
		got, err := NewKeyring(key(t, v.key)).seal([]byte(v.plain), iv)
		if err != nil || got != v.token {
			t.Errorf("seal(%s) = %q, %v; want %q", v.plain, got, err, v.token)
		}
	}
}

func TestEveryKeySizeSealsAndOpens(t *testing.T) {
	type payload struct {
		User  string   `json:"user"`
		Roles []string `json:"roles"`
	}
	want := payload{"<é & 😀>\u2028", []string{"a", ""}}
	for _, size := range []int{16, 24, 32} {
		k := NewKeyring(key(t, base64.StdEncoding.EncodeToString(make([]byte, size))))
		tok, err := k.Seal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got payload
		if err := k.Open(tok, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%d bytes: Open = %+v, %v; want %+v", size, got, err, want)
		}
	}
}

func TestTwoTokensOfOneValueDiffer(t *testing.T) {
	k := newKeyring(t)
	a, _ := k.Seal("1")
	b, _ := k.Seal("1")
	if a == b {
		t.Error("the same token twice")
	}
}

func TestKeysOfAnotherSizeAreRefusedWithoutQuotingThem(t *testing.T) {
	for _, text := range []string{"", "c2VjcmV0", strings.Repeat("c2VjcmV0", 10), "secret!", "c2VjcmV0\nc2VjcmV0"} {
		if _, err := NewKey(text); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("NewKey(%q) = %v", text, err)
		}
	}
}

func TestKeysDoNotShowInFormattedOutput(t *testing.T) {
	raw := strings.Repeat("k", 32)
	ring := NewKeyring(key(t, base64.StdEncoding.EncodeToString([]byte(raw))))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		out := fmt.Sprintf(verb, ring)
		for _, secret := range []string{raw[:8], "107 107 107", "6b6b6b", "0x6b, 0x6b"} {
			if strings.Contains(out, secret) {
				t.Errorf("%s shows the key: %s", verb, out)
			}
		}
	}
}

func TestRotation(t *testing.T) {
	before, now, other := key(t, GenerateKey()), key(t, GenerateKey()), key(t, GenerateKey())
	old, err := NewKeyring(before).Seal("7")
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if err := NewKeyring(now, other, before).Open(old, &got); err != nil || got != "7" {
		t.Errorf("with the legacy key: %q, %v", got, err)
	}
	if err := NewKeyring(now, other).Open(old, &got); err != ErrInvalid {
		t.Errorf("without the legacy key: %v, want %v", err, ErrInvalid)
	}
	tok, _ := NewKeyring(now, before).Seal("8")
	if err := NewKeyring(before).Open(tok, &got); err != ErrInvalid {
		t.Error("sealed with the legacy key")
	}
}

func TestAKeyringWithoutACurrentKeySealsAndOpensNothing(t *testing.T) {
	k := key(t, GenerateKey())
	tok, _ := NewKeyring(k).Seal(1)
	for _, ring := range []*Keyring{new(Keyring), NewKeyring(Key{}), NewKeyring(Key{}, k)} {
		if _, err := ring.Seal(1); err == nil {
			t.Error("sealed without a key")
		}
		var v any
		if err := ring.Open(tok, &v); err != ErrInvalid {
			t.Errorf("Open = %v, want %v", err, ErrInvalid)
		}
	}
}

func TestNoBitOfATokenCanBeChanged(t *testing.T) {
	for _, v := range vectors {
		k := NewKeyring(key(t, v.key))
		for i := range len(v.token) {
			for bit := range 8 {
				b := []byte(v.token)
				b[i] ^= 1 << bit
				var got any
				if err := k.Open(string(b), &got); err != ErrInvalid {
					t.Errorf("byte %d bit %d: %v, %v", i, bit, got, err)
				}
			}
		}
	}
}

func TestNoBitOfTheSealedBytesCanBeChanged(t *testing.T) {
	v := vectors[2]
	k := NewKeyring(key(t, v.key))
	iv, ciphertext, _ := parse(v.token)
	whole := append(append([]byte(nil), iv...), ciphertext...)
	for i := range whole {
		for bit := range 8 {
			b := append([]byte(nil), whole...)
			b[i] ^= 1 << bit
			var got any
			if err := k.Open(encode(b[:ivSize], b[ivSize:len(b)-tagSize], b[len(b)-tagSize:]), &got); err != ErrInvalid {
				t.Errorf("byte %d bit %d: %v, %v", i, bit, got, err)
			}
		}
	}
}

// encode builds a token of the given parts.
func encode(iv, ciphertext, tag []byte) string {
	text, _ := json.Marshal(sealed{ciphertext, iv, tag})
	return base64.StdEncoding.EncodeToString(text)
}

func TestAShortenedTokenIsRefused(t *testing.T) {
	v := vectors[0]
	k := NewKeyring(key(t, v.key))
	padding := strings.Count(v.token, "=")
	for n := range len(v.token) - padding {
		var got any
		if err := k.Open(v.token[:n], &got); err != ErrInvalid {
			t.Errorf("%d bytes: %v, %v", n, got, err)
		}
	}
}

func TestAShortenedPartIsRefused(t *testing.T) {
	v := vectors[2]
	k := NewKeyring(key(t, v.key))
	iv, ciphertext, _ := parse(v.token)
	text, tag := ciphertext[:len(ciphertext)-tagSize], ciphertext[len(ciphertext)-tagSize:]
	var got any
	if err := k.Open(encode(iv, text, tag), &got); err != nil {
		t.Fatal(err)
	}
	for n := range tag {
		if err := k.Open(encode(iv, text, tag[:n]), &got); err != ErrInvalid {
			t.Errorf("tag of %d bytes: %v", n, err)
		}
	}
	for n := range iv {
		if err := k.Open(encode(iv[:n], text, tag), &got); err != ErrInvalid {
			t.Errorf("IV of %d bytes: %v", n, err)
		}
	}
	for n := range text {
		if err := k.Open(encode(iv, text[:n], tag), &got); err != ErrInvalid {
			t.Errorf("ciphertext of %d bytes: %v", n, err)
		}
	}
	longer := append(append([]byte(nil), iv...), 0)
	if err := k.Open(encode(longer, text, tag), &got); err != ErrInvalid {
		t.Errorf("IV of 13 bytes: %v", err)
	}
}

func TestBase64OfEitherAlphabetIsTakenPaddedOrNot(t *testing.T) {
	toURL := strings.NewReplacer("+", "-", "/", "_")
	for _, v := range vectors {
		k := NewKeyring(key(t, v.key))
		text, _ := base64.StdEncoding.DecodeString(v.token)
		for name, tok := range map[string]string{
			"unpadded":      strings.TrimRight(v.token, "="),
			"url":           toURL.Replace(v.token),
			"url, unpadded": toURL.Replace(strings.TrimRight(v.token, "=")),
			"parts in url":  base64.StdEncoding.EncodeToString([]byte(toURL.Replace(string(text)))),
			"parts bare":    base64.URLEncoding.EncodeToString([]byte(strings.ReplaceAll(string(text), "=", ""))),
		} {
			var got json.RawMessage
			if err := k.Open(tok, &got); err != nil || string(got) != v.plain {
				t.Errorf("%s: %s, %v; want %s", name, got, err, v.plain)
			}
		}
	}
}

func TestWhatIsNotATokenIsRefusedWithOneError(t *testing.T) {
	k := newKeyring(t)
	good, _ := k.Seal("1")
	text, _ := base64.StdEncoding.DecodeString(good)
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tok := range []string{
		"", " ", "=", "====", "null", "x", "é", good + "=", good + good, " " + good, good + "\n", good + "\x00",
		b64(""), b64("null"), b64("[]"), b64("1"), b64(`"x"`), b64("{}"), b64("{"),
		b64(`{"ciphertext":"","iv":"","tag":""}`),
		b64(`{"ciphertext":null,"iv":null,"tag":null}`),
		b64(`{"ciphertext":1,"iv":2,"tag":3}`),
		b64(`{"ciphertext":[1],"iv":{},"tag":true}`),
		b64(string(text) + "x"),
		b64(strings.ToUpper(string(text))),
		b64(strings.Replace(string(text), "ciphertext", "Ciphertext", 1)),
		b64(strings.Repeat("[", 5000)),
		strings.Repeat("A", MaxLen+4),
	} {
		var v any
		if err := k.Open(tok, &v); err != ErrInvalid {
			t.Errorf("Open(%.40q) = %v, want %v", tok, err, ErrInvalid)
		}
	}
}

func TestATokenWhoseValueIsAnotherIsInvalid(t *testing.T) {
	k := newKeyring(t)
	tok, _ := k.Seal("text")
	var n int
	if err := k.Open(tok, &n); err != ErrInvalid {
		t.Errorf("Open = %v, want %v", err, ErrInvalid)
	}
	notJSON, _ := k.seal([]byte("nope"), make([]byte, ivSize))
	var v any
	if err := k.Open(notJSON, &v); err != ErrInvalid {
		t.Errorf("Open = %v, want %v", err, ErrInvalid)
	}
}

func TestOpeningIntoWhatCannotBeSetIsTheCallersMistake(t *testing.T) {
	k := newKeyring(t)
	tok, _ := k.Seal("text")
	for _, v := range []any{nil, "x", (*string)(nil)} {
		if err := k.Open(tok, v); err == nil || errors.Is(err, ErrInvalid) {
			t.Errorf("Open into %T = %v", v, err)
		}
	}
}

func TestTheLongestTokenOpensAndTheNextIsNotMade(t *testing.T) {
	k := newKeyring(t)
	longest := ""
	for n := 4400; ; n++ {
		tok, err := k.Seal(strings.Repeat("x", n))
		if err != nil {
			if !errors.Is(err, ErrTooLong) {
				t.Errorf("Seal = %v, want %v", err, ErrTooLong)
			}
			break
		}
		longest = tok
	}
	var got string
	if err := k.Open(longest, &got); err != nil || len(longest) > MaxLen || len(longest) < MaxLen-8 {
		t.Errorf("longest token: %d bytes, Open = %v", len(longest), err)
	}
	if _, err := k.Seal(strings.Repeat("x", MaxLen+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("Seal = %v, want %v", err, ErrTooLong)
	}
}

func TestWhatIsNotJSONIsNotSealed(t *testing.T) {
	if _, err := newKeyring(t).Seal(make(chan int)); err == nil {
		t.Error("sealed a channel")
	}
}

func FuzzOpen(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.token)
		f.Add(strings.TrimRight(v.token, "="))
		f.Add(v.token[:len(v.token)/2])
	}
	f.Add("")
	f.Add("e30=")
	f.Add(base64.StdEncoding.EncodeToString([]byte(`{"ciphertext":"AAAA","iv":"AAAAAAAAAAAAAAAA","tag":"AAAAAAAAAAAAAAAAAAAAAA=="}`)))
	var keys []Key
	for _, v := range vectors {
		keys = append(keys, key(f, v.key))
	}
	ring := NewKeyring(keys[0], keys[1:]...)
	f.Fuzz(func(t *testing.T, tok string) {
		var v any
		if err := ring.Open(tok, &v); err != nil && err != ErrInvalid {
			t.Errorf("Open = %v", err)
		}
		if _, err := ring.OpenUser(tok); err != nil && err != ErrInvalid && err != ErrExpired {
			t.Errorf("OpenUser = %v", err)
		}
	})
}
