package proxycfg

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM is made of it
	"golang.org/x/crypto/md4"
)

// ntlmAccount is an account as a domain controller knows it. The server side of
// MS-NLMP below was written from the specification, not from the library that
// the package uses.
type ntlmAccount struct{ domain, user, password string }

var (
	ntlmServerChallenge = []byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	ntlmTargetInfo      = func() []byte {
		var b []byte
		for _, av := range []struct {
			id    uint16
			value []byte
		}{
			{2, utf16le("CORP")},
			{1, utf16le("PROXY")},
			{4, utf16le("corp.test")},
			{7, []byte{0, 0x80, 0x3e, 0xd5, 0xde, 0xb1, 0x9d, 1}},
			{0, nil},
		} {
			b = binary.LittleEndian.AppendUint16(b, av.id)
			b = binary.LittleEndian.AppendUint16(b, uint16(len(av.value)))
			b = append(b, av.value...)
		}
		return b
	}()
)

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// ntlmType is the type of a message; 0: it is none.
func ntlmType(token string) (byte, []byte) {
	m, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(m) < 16 || string(m[:8]) != "NTLMSSP\x00" {
		return 0, nil
	}
	return m[8], m
}

// ntlmChallengeMessage is MS-NLMP 2.2.1.2 with a target name, target
// information and a time.
func ntlmChallengeMessage() []byte {
	const flags = 0x00000001 | 0x00000004 | 0x00000200 | 0x00008000 | 0x00010000 | 0x00080000 | 0x00800000 | 0x20000000 | 0x80000000
	name := utf16le("CORP")
	m := append([]byte("NTLMSSP\x00"), 2, 0, 0, 0)
	m = appendNTLMField(m, len(name), 48)
	m = binary.LittleEndian.AppendUint32(m, flags)
	m = append(m, ntlmServerChallenge...)
	m = append(m, make([]byte, 8)...)
	m = appendNTLMField(m, len(ntlmTargetInfo), 48+len(name))
	return append(append(m, name...), ntlmTargetInfo...)
}

func appendNTLMField(m []byte, length, offset int) []byte {
	m = binary.LittleEndian.AppendUint16(m, uint16(length))
	m = binary.LittleEndian.AppendUint16(m, uint16(length))
	return binary.LittleEndian.AppendUint32(m, uint32(offset))
}

// check verifies an AUTHENTICATE message as MS-NLMP 3.3.2 says, NTLMv2 only.
func (a ntlmAccount) check(m []byte) error {
	field := func(at int) ([]byte, error) {
		if len(m) < at+8 {
			return nil, errors.New("message is short")
		}
		n := int(binary.LittleEndian.Uint16(m[at:]))
		from := int(binary.LittleEndian.Uint32(m[at+4:]))
		if from > len(m) || n > len(m)-from {
			return nil, errors.New("field outside of the message")
		}
		return m[from : from+n], nil
	}
	response, err := field(20)
	if err != nil {
		return err
	}
	domain, err := field(28)
	if err != nil {
		return err
	}
	user, err := field(36)
	if err != nil {
		return err
	}
	if len(response) < 16+28 {
		return errors.New("not NTLMv2")
	}
	// A user principal name comes with an empty domain; a bare name is looked up
	// in the domain of the server.
	switch got := string(domain) + `\` + string(user); got {
	case string(utf16le(a.domain)) + `\` + string(utf16le(a.user)),
		`\` + string(utf16le(a.user)),
		`\` + string(utf16le(a.user+"@corp.test")):
	default:
		return fmt.Errorf("unknown user %q", got)
	}
	hash := md4.New()
	hash.Write(utf16le(a.password))
	name := string(user)
	upper := utf16le(strings.ToUpper(fromUTF16LE([]byte(name))))
	ntowf := hmac.New(md5.New, hash.Sum(nil))
	ntowf.Write(append(upper, domain...))
	proof := hmac.New(md5.New, ntowf.Sum(nil))
	proof.Write(ntlmServerChallenge)
	proof.Write(response[16:])
	if !hmac.Equal(proof.Sum(nil), response[:16]) {
		return errors.New("wrong password")
	}
	temp := response[16:]
	if temp[0] != 1 || temp[1] != 1 {
		return errors.New("not an NTLMv2_CLIENT_CHALLENGE")
	}
	if !strings.Contains(string(temp), string(ntlmTargetInfo)) {
		return errors.New("the target information is not the server's")
	}
	return nil
}

func fromUTF16LE(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
