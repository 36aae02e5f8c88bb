package token

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// sealText seals a payload as it stands.
func sealText(t testing.TB, k *Keyring, plain string) string {
	t.Helper()
	tok, err := k.seal([]byte(plain), make([]byte, ivSize))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTheUserOfAToken(t *testing.T) {
	k := newKeyring(t)
	at := func(sec, nsec int64) time.Time { return time.Unix(sec, nsec) }
	for plain, want := range map[string]Identity{
		`"123"`:                              {User: "123"},
		`42`:                                 {User: "42"},
		`12345678901234567890`:               {User: "12345678901234567890"},
		`-1.50`:                              {User: "-1.50"},
		`"*.>\r\n é😀"`:                       {User: "*.>\r\n é😀"},
		`{"user_id":"a"}`:                    {User: "a"},
		`{"id":7}`:                           {User: "7"},
		`{"sub":"s","iat":1,"roles":["x"]}`:  {User: "s"},
		`{"sub":"s","id":"i","user_id":"u"}`: {User: "u"},
		`{"sub":"s","id":"i"}`:               {User: "i"},
		`{"id":"i","exp":2000}`:              {User: "i", Expires: at(2000, 0)},
		`{"id":"i","exp":2000.5}`:            {User: "i", Expires: at(2000, 5e8)},
		`{"id":"i","iat":1000.5,"jti":"x"}`:  {User: "i", Issued: at(1000, 5e8), ID: "x"},
		`{"id":"i","iat":"1000","jti":7}`:    {User: "i"},
		`{"id":"i","exp":253402300799}`:      {User: "i", Expires: at(253402300799, 0)},
		` {"id" : "i"} `:                     {User: "i"},
	} {
		got, err := k.OpenUserAt(sealText(t, k, plain), at(1000, 0))
		if err != nil || got.User != want.User || !got.Expires.Equal(want.Expires) {
			t.Errorf("%s: %+v, %v; want %+v", plain, got, err, want)
		}
	}
}

func TestAPayloadWithoutAUserIsInvalid(t *testing.T) {
	k := newKeyring(t)
	for _, plain := range []string{
		`""`, `null`, `true`, `[]`, `["1"]`, `{}`, `{"user_id":""}`, `{"user_id":null}`, `{"user_id":["1"]}`,
		`{"user_id":null,"id":"1"}`, `{"User_id":"1"}`, `{"id":{"id":"1"}}`, `"\ud800"`,
		`{"id":"1","exp":null}`, `{"id":"1","exp":"2000000000"}`, `{"id":"1","exp":-1}`,
		`{"id":"1","exp":253402300800}`, `{"id":"1","exp":1e400}`, `{"id":"1","exp":[]}`, `x`, ``,
	} {
		var tok string
		if plain == "" {
			tok = encode(make([]byte, ivSize), nil, make([]byte, tagSize))
		} else {
			tok = sealText(t, k, plain)
		}
		if id, err := k.OpenUserAt(tok, time.Unix(0, 0)); err != ErrInvalid || id != (Identity{}) {
			t.Errorf("%s: %+v, %v; want %v", plain, id, err, ErrInvalid)
		}
	}
}

func TestATokenExpiresAtTheSecondItNames(t *testing.T) {
	k := newKeyring(t)
	tok := sealText(t, k, `{"user_id":"1","exp":2000}`)
	end := time.Unix(2000, 0)
	if id, err := k.OpenUserAt(tok, end.Add(-1)); err != nil || id.User != "1" || id.Expired(end.Add(-1)) {
		t.Errorf("before the end: %+v, %v", id, err)
	}
	for _, now := range []time.Time{end, end.Add(time.Hour)} {
		if id, err := k.OpenUserAt(tok, now); err != ErrExpired || id != (Identity{}) {
			t.Errorf("at %v: %+v, %v; want %v", now, id, err, ErrExpired)
		}
	}
}

func TestSealUserGivesAtLeastTheTimeThatItWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond) // of the bubble's clock: away from a whole second
		k := newKeyring(t)
		tok, err := k.SealUser("é 1", 90*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		id, err := k.OpenUser(tok)
		if left := time.Until(id.Expires); err != nil || id.User != "é 1" || left < 90*time.Second || left > 91*time.Second {
			t.Errorf("OpenUser = %+v, %v; %v left", id, err, left)
		}
		time.Sleep(91 * time.Second)
		if _, err := k.OpenUser(tok); err != ErrExpired {
			t.Errorf("OpenUser = %v, want %v", err, ErrExpired)
		}
	})
}

func TestSealUserWithoutATimeSealsTheIDAlone(t *testing.T) {
	k := newKeyring(t)
	tok, err := k.SealUser("123", 0)
	if err != nil {
		t.Fatal(err)
	}
	var plain string
	if err := k.Open(tok, &plain); err != nil || plain != "123" {
		t.Errorf("payload %q, %v", plain, err)
	}
	if id, err := k.OpenUser(tok); err != nil || id != (Identity{User: "123"}) {
		t.Errorf("OpenUser = %+v, %v", id, err)
	}
}

func TestSealUserRefusesWhatCannotComeBackAsItWas(t *testing.T) {
	k := newKeyring(t)
	for _, user := range []string{"", "\xff", "a\xc3", "\ufffd"} {
		if _, err := k.SealUser(user, 0); err == nil {
			t.Errorf("sealed %q", user)
		}
	}
	if _, err := k.SealUser("1", -time.Second); err == nil {
		t.Error("sealed a token that is over")
	}
}

func FuzzSealUser(f *testing.F) {
	for _, user := range []string{"1", "", "a.b:*>", "é😀", "\x00\r\n", "\xff", `"`, "<&>\u2028"} {
		f.Add(user, int64(0))
		f.Add(user, int64(time.Hour))
		f.Add(user, int64(math.MaxInt64))
	}
	k := newKeyring(f)
	f.Fuzz(func(t *testing.T, user string, ttl int64) {
		tok, err := k.SealUser(user, time.Duration(ttl))
		if err != nil {
			return
		}
		if !utf8.ValidString(user) || strings.ContainsAny(tok, " \n") {
			t.Fatalf("sealed %q as %q", user, tok)
		}
		if id, err := k.OpenUserAt(tok, time.Unix(0, 0)); err != nil || id.User != user {
			t.Fatalf("%q came back as %q, %v", user, id.User, err)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	for _, plain := range []string{`"1"`, `1`, `{"id":1}`, `{"sub":"x","exp":1.5}`, `{"exp":1e999}`, `null`, `[`} {
		f.Add(plain)
	}
	f.Fuzz(func(t *testing.T, plain string) {
		id, ok := identity([]byte(plain))
		if ok && id.User == "" {
			t.Fatalf("%q: nobody", plain)
		}
	})
}
