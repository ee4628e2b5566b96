package demo

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-ntlmssp"
)

// The numbers of MS-NLMP §4.2.1 and §4.2.4: User, Domain, Password, the server
// challenge 0123456789abcdef, the client challenge aa..aa, the time 0.
const (
	specNTOWFv2    = "0c868a403bfd7a93a3001ef22ef02e3f"
	specProof      = "68cd0ab851e51c96aabc927bebef6a1c"
	specSessionKey = "8de40ccadbc14a82f15cb0ad0de95ca3"
	specNonce      = "0123456789abcdef"
	// specAuthenticate is the AUTHENTICATE message of §4.2.4.3.
	specAuthenticate = "4e544c4d535350000300000018001800" +
		"6c00000054005400840000000c000c00" +
		"48000000080008005400000010001000" +
		"5c00000010001000d8000000358288e2" +
		"0501280a0000000f44006f006d006100" +
		"69006e00550073006500720043004f00" +
		"4d005000550054004500520086c35097" +
		"ac9cec102554764a57cccc19aaaaaaaa" +
		"aaaaaaaa68cd0ab851e51c96aabc927b" +
		"ebef6a1c010100000000000000000000" +
		"00000000aaaaaaaaaaaaaaaa00000000" +
		"02000c0044006f006d00610069006e00" +
		"01000c00530065007200760065007200" +
		"0000000000000000c5dad2544fc97990" +
		"94ce1ce90bc9d03e"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNTLMPublishedVectors(t *testing.T) {
	key := ntowfv2(ntHashOf("Password"), "User", "Domain")
	if got := hex.EncodeToString(key); got != specNTOWFv2 {
		t.Errorf("NTOWFv2 = %s, want %s", got, specNTOWFv2)
	}
	m, err := parseAuthenticate(unhex(t, specAuthenticate))
	if err != nil {
		t.Fatal(err)
	}
	if m.user != "User" || m.domain != "Domain" || hex.EncodeToString(m.ntResponse[:16]) != specProof {
		t.Errorf("parsed %q %q %x", m.domain, m.user, m.ntResponse)
	}
	session, err := checkNTLMv2(key, unhex(t, specNonce), m.ntResponse)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(session); got != specSessionKey {
		t.Errorf("session base key = %s, want %s", got, specSessionKey)
	}
	pairs, err := parseAVPairs(m.ntResponse[44:])
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := fromUTF16LE(pairs[avNbComputerName]); got != "Server" {
		t.Errorf("computer name = %q", got)
	}
	if _, err := checkNTLMv2(ntowfv2(ntHashOf("password"), "User", "Domain"), unhex(t, specNonce), m.ntResponse); !errors.Is(err, errNTLMProof) {
		t.Errorf("another password: %v", err)
	}
	if _, err := checkNTLMv2(key, unhex(t, "0123456789abcdee"), m.ntResponse); !errors.Is(err, errNTLMProof) {
		t.Errorf("another challenge: %v", err)
	}
}

func testAuthority() *ntlmAuthority {
	ntHash := ntHashOf("tide-out")
	return &ntlmAuthority{
		domain: "CORP", dnsDomain: "corp.example", computer: "PROXY", now: time.Now,
		account: func(user string) ([]byte, bool) { return ntHash, user == "svc-ebbgate" },
	}
}

func TestNTLMExchangeWithPublicClient(t *testing.T) {
	for _, tc := range []struct {
		name, user, password string
		want                 error
	}{
		{"domain and user", `CORP\svc-ebbgate`, "tide-out", nil},
		{"case of the user", `CORP\SVC-Ebbgate`, "tide-out", nil},
		{"case of the domain", `corp\svc-ebbgate`, "tide-out", nil},
		{"principal name", "svc-ebbgate@corp.example", "tide-out", nil},
		{"no domain", "svc-ebbgate", "tide-out", nil},
		{"wrong password", `CORP\svc-ebbgate`, "tide-in", errNTLMProof},
		{"case of the password", `CORP\svc-ebbgate`, "Tide-out", errNTLMProof},
		{"empty password", `CORP\svc-ebbgate`, "", errNTLMProof},
		{"unknown user", `CORP\root`, "tide-out", errNTLMAccount},
		{"another domain", `OTHER\svc-ebbgate`, "tide-out", errNTLMAccount},
		{"another principal domain", "svc-ebbgate@other.example", "tide-out", errNTLMAccount},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := &ntlmExchange{authority: testAuthority()}
			hello, err := ntlmssp.NewNegotiateMessage("", "")
			if err != nil {
				t.Fatal(err)
			}
			challenge, err := x.Challenge(hello)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := ntlmssp.NewAuthenticateMessage(challenge, tc.user, tc.password, nil)
			if err != nil {
				t.Fatal(err)
			}
			user, err := x.Authenticate(answer)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if tc.want == nil && user != "svc-ebbgate" {
				t.Errorf("user = %q", user)
			}
			if _, err := x.Authenticate(answer); !errors.Is(err, errNTLMSequence) {
				t.Errorf("the same answer again: %v", err)
			}
			if _, err := x.Challenge(hello); err != nil {
				t.Fatal(err)
			}
			if _, err := x.Authenticate(answer); err == nil {
				t.Error("an answer to another challenge was believed")
			}
		})
	}
}

// answerWithMIC is what a current Windows sends: flags that promise a MIC, and
// the MIC.
func answerWithMIC(t *testing.T, negotiate, challenge []byte, a *ntlmAuthority) []byte {
	t.Helper()
	key := ntowfv2(ntHashOf("tide-out"), "svc-ebbgate", "CORP")
	response := append([]byte{1, 1, 0, 0, 0, 0, 0, 0}, make([]byte, 20)...)
	copy(response[8:], appendLE64(toFileTime(a.now())))
	response = appendAVPair(response, avFlags, []byte{2, 0, 0, 0})
	response = append(appendAVPair(response, avEOL, nil), 0, 0, 0, 0)
	response = append(hmacMD5(key, challenge[24:32], response), response...)

	domain, user := utf16le("CORP"), utf16le("svc-ebbgate")
	m := append([]byte(ntlmSignature), 3, 0, 0, 0)
	m = appendNTLMField(m, 0, 88)
	m = appendNTLMField(m, len(response), 88)
	m = appendNTLMField(m, len(domain), 88+len(response))
	m = appendNTLMField(m, len(user), 88+len(response)+len(domain))
	m = appendNTLMField(m, 0, 88)
	m = appendNTLMField(m, 0, 88)
	m = append(m, challenge[20:24]...)
	m = append(m, make([]byte, 8+16)...)
	m = append(append(append(m, response...), domain...), user...)
	copy(m[72:], hmacMD5(hmacMD5(key, response[:16]), negotiate, challenge, m))
	return m
}

func appendLE64(v uint64) []byte {
	var b []byte
	for range 8 {
		b = append(b, byte(v))
		v >>= 8
	}
	return b
}

func TestNTLMMessageIntegrity(t *testing.T) {
	authority := testAuthority()
	hello, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(message []byte)
		want   error
	}{
		{"untouched", func([]byte) {}, nil},
		{"another MIC", func(m []byte) { m[72] ^= 1 }, errNTLMIntegrity},
		{"flags changed", func(m []byte) { m[62] ^= 8 }, errNTLMIntegrity},
		{"proof changed", func(m []byte) { m[88] ^= 1 }, errNTLMProof},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := &ntlmExchange{authority: authority}
			challenge, err := x.Challenge(hello)
			if err != nil {
				t.Fatal(err)
			}
			m := answerWithMIC(t, hello, challenge, authority)
			tc.change(m)
			if _, err := x.Authenticate(m); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}

	t.Run("an hour late", func(t *testing.T) {
		x := &ntlmExchange{authority: testAuthority()}
		challenge, err := x.Challenge(hello)
		if err != nil {
			t.Fatal(err)
		}
		m := answerWithMIC(t, hello, challenge, x.authority)
		x.authority.now = func() time.Time { return time.Now().Add(time.Hour) }
		if _, err := x.Authenticate(m); !errors.Is(err, errNTLMTime) {
			t.Errorf("got %v, want %v", err, errNTLMTime)
		}
	})
}

func TestNTLMMalformed(t *testing.T) {
	hello, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		t.Fatal(err)
	}
	good := unhex(t, specAuthenticate)
	change := func(at int, b ...byte) []byte {
		m := bytes.Clone(good)
		copy(m[at:], b)
		return m
	}
	for name, message := range map[string][]byte{
		"empty":                 nil,
		"signature":             change(0, 'X'),
		"cut header":            good[:63],
		"cut payload":           good[:100],
		"response beyond":       change(24, 0xff, 0xff, 0xff, 0xff),
		"user in the header":    change(40, 8),
		"odd user":              change(36, 7),
		"no unicode":            change(60, 0x34),
		"type":                  change(8, 2),
		"too long":              append(bytes.Clone(good), make([]byte, ntlmMaxSize)...),
		"NTLMv1 response":       change(20, 24),
		"no response":           change(20, 0),
		"key exchange unasked":  good,
		"response of version 2": change(0x84+16, 2),
	} {
		x := &ntlmExchange{authority: testAuthority()}
		if _, err := x.Challenge(hello); err != nil {
			t.Fatal(err)
		}
		if user, err := x.Authenticate(message); err == nil {
			t.Errorf("%s: believed to be %q", name, user)
		}
	}
	for name, message := range map[string][]byte{
		"empty":      nil,
		"cut":        hello[:12],
		"no unicode": append([]byte(ntlmSignature), 1, 0, 0, 0, 0, 2, 0, 0),
		"garbage":    []byte(strings.Repeat("x", 40)),
	} {
		x := &ntlmExchange{authority: testAuthority()}
		if _, err := x.Challenge(message); err == nil {
			t.Errorf("negotiate %s: answered", name)
		}
	}
}

func TestFileTime(t *testing.T) {
	// 2009-07-25 23:00 UTC, and the ends of the range.
	at := time.Date(2009, 7, 25, 23, 0, 0, 0, time.UTC)
	if got := toFileTime(at); got != 128930364000000000 {
		t.Errorf("toFileTime = %d", got)
	}
	if got := fileTime(128930364000000000); !got.Equal(at) {
		t.Errorf("fileTime = %v", got)
	}
	if d := time.Since(fileTime(0)); d < ntlmClockSkew {
		t.Errorf("1601 was %v ago", d)
	}
	if d := time.Until(fileTime(1<<64 - 1)); d < ntlmClockSkew {
		t.Errorf("the end of time is in %v", d)
	}
}

func FuzzNTLM(f *testing.F) {
	good, _ := hex.DecodeString(specAuthenticate)
	hello, _ := ntlmssp.NewNegotiateMessage("", "")
	f.Add(good)
	f.Add(hello)
	f.Fuzz(func(t *testing.T, b []byte) {
		x := &ntlmExchange{authority: testAuthority()}
		x.Challenge(b)
		if _, err := x.Challenge(hello); err != nil {
			t.Fatal(err)
		}
		if user, err := x.Authenticate(b); err == nil {
			t.Fatalf("proved to be %q", user)
		}
	})
}
