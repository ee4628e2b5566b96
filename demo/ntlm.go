package demo

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //lint:ignore SA1019 NTLM is defined with MD4
)

// Negotiate flags, MS-NLMP §2.2.2.5.
const (
	flagUnicode         uint32 = 0x00000001
	flagRequestTarget   uint32 = 0x00000004
	flagNTLM            uint32 = 0x00000200
	flagAlwaysSign      uint32 = 0x00008000
	flagTargetDomain    uint32 = 0x00010000
	flagExtendedSession uint32 = 0x00080000
	flagTargetInfo      uint32 = 0x00800000
	flagVersion         uint32 = 0x02000000
	flag128             uint32 = 0x20000000
	flagKeyExchange     uint32 = 0x40000000
	flag56              uint32 = 0x80000000
)

// AV_PAIR identifiers, MS-NLMP §2.2.2.1.
const (
	avEOL             uint16 = 0
	avNbComputerName  uint16 = 1
	avNbDomainName    uint16 = 2
	avDNSComputerName uint16 = 3
	avDNSDomainName   uint16 = 4
	avFlags           uint16 = 6
	avTimestamp       uint16 = 7

	avFlagMIC uint32 = 0x00000002 // the AUTHENTICATE message has a MIC
)

const (
	ntlmSignature = "NTLMSSP\x00"
	ntlmMaxSize   = 4 << 10 // of any message, in bytes

	// ntlmClockSkew is how far a response's time may be from ours.
	ntlmClockSkew = 30 * time.Minute
)

// Reasons why a message is refused. The client is told none of them.
var (
	errNTLMMalformed = errors.New("demo: malformed NTLM message")
	errNTLMVersion   = errors.New("demo: NTLM response is not NTLMv2")
	errNTLMSequence  = errors.New("demo: NTLM message out of sequence")
	errNTLMAccount   = errors.New("demo: unknown NTLM account")
	errNTLMProof     = errors.New("demo: wrong NTLM password")
	errNTLMIntegrity = errors.New("demo: NTLM messages were changed on their way")
	errNTLMTime      = errors.New("demo: NTLM response is too old or from the future")
)

// ntlmAuthority plays the domain controller: it knows the accounts.
type ntlmAuthority struct {
	domain    string // NetBIOS name
	dnsDomain string
	computer  string // NetBIOS name of the server that asks
	account   func(user string) (ntHash []byte, ok bool)
	now       func() time.Time
}

// ntlmExchange is the authentication of one connection (MS-NLMP §3.2.5): a
// NEGOTIATE message, then an AUTHENTICATE message. It belongs to one goroutine.
type ntlmExchange struct {
	authority *ntlmAuthority
	negotiate []byte
	challenge []byte // nil until Challenge, and again after Authenticate
}

// Challenge answers a NEGOTIATE message with a CHALLENGE message. It begins the
// exchange anew.
func (x *ntlmExchange) Challenge(negotiate []byte) ([]byte, error) {
	if err := checkNTLMHeader(negotiate, 1, 16); err != nil {
		return nil, err
	}
	asked := binary.LittleEndian.Uint32(negotiate[12:])
	if asked&flagUnicode == 0 || asked&flagNTLM == 0 {
		return nil, errNTLMVersion
	}
	var nonce [8]byte
	rand.Read(nonce[:])
	x.negotiate = bytes.Clone(negotiate)
	x.challenge = marshalChallenge(asked, nonce, x.authority)
	return x.challenge, nil
}

// Authenticate checks an AUTHENTICATE message and gives the account's name. A
// challenge serves one attempt.
func (x *ntlmExchange) Authenticate(message []byte) (string, error) {
	challenge := x.challenge
	x.challenge = nil
	if challenge == nil {
		return "", errNTLMSequence
	}
	m, err := parseAuthenticate(message)
	if err != nil {
		return "", err
	}
	if m.flags&flagKeyExchange != 0 {
		return "", errNTLMMalformed // never offered
	}
	user, ok := x.authority.canonical(m.user, m.domain)
	if !ok {
		return "", errNTLMAccount
	}
	ntHash, ok := x.authority.account(user)
	if !ok {
		return "", errNTLMAccount
	}
	key := ntowfv2(ntHash, m.user, m.domain)
	sessionKey, err := checkNTLMv2(key, challenge[24:32], m.ntResponse)
	if err != nil {
		return "", err
	}
	// From here on the response is the account holder's.
	stamp := fileTime(binary.LittleEndian.Uint64(m.ntResponse[24:]))
	if d := x.authority.now().Sub(stamp); d > ntlmClockSkew || d < -ntlmClockSkew {
		return "", errNTLMTime
	}
	pairs, err := parseAVPairs(m.ntResponse[44:])
	if err != nil {
		return "", err
	}
	if f := pairs[avFlags]; len(f) == 4 && binary.LittleEndian.Uint32(f)&avFlagMIC != 0 {
		if !checkMIC(sessionKey, x.negotiate, challenge, message) {
			return "", errNTLMIntegrity
		}
	}
	return user, nil
}

// canonical folds DOMAIN\user, user@dns.domain and user into the account name.
func (a *ntlmAuthority) canonical(user, domain string) (string, bool) {
	if domain == "" {
		if name, dns, ok := strings.Cut(user, "@"); ok {
			return strings.ToLower(name), strings.EqualFold(dns, a.dnsDomain)
		}
		return strings.ToLower(user), true
	}
	return strings.ToLower(user), strings.EqualFold(domain, a.domain) || strings.EqualFold(domain, a.dnsDomain)
}

// marshalChallenge makes a CHALLENGE message (MS-NLMP §2.2.1.2):
//
//	 0 signature (8)    8 type = 2 (4)         12 target name fields (8)
//	20 flags (4)       24 server challenge (8) 32 reserved (8)
//	40 target info fields (8)                  48 version (8)   56 payload
func marshalChallenge(asked uint32, nonce [8]byte, a *ntlmAuthority) []byte {
	const header = 56
	target := utf16le(a.domain)
	stamp := binary.LittleEndian.AppendUint64(nil, toFileTime(a.now()))
	var info []byte
	info = appendAVPair(info, avNbDomainName, target)
	info = appendAVPair(info, avNbComputerName, utf16le(a.computer))
	info = appendAVPair(info, avDNSDomainName, utf16le(a.dnsDomain))
	info = appendAVPair(info, avDNSComputerName, utf16le(strings.ToLower(a.computer)+"."+a.dnsDomain))
	info = appendAVPair(info, avTimestamp, stamp)
	info = appendAVPair(info, avEOL, nil)

	flags := flagUnicode | flagNTLM | flagTargetInfo | flagTargetDomain | flagVersion
	flags |= asked & (flagRequestTarget | flagAlwaysSign | flagExtendedSession | flag128 | flag56)

	b := make([]byte, 0, header+len(target)+len(info))
	b = append(b, ntlmSignature...)
	b = binary.LittleEndian.AppendUint32(b, 2)
	b = appendNTLMField(b, len(target), header)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = append(b, nonce[:]...)
	b = append(b, make([]byte, 8)...)
	b = appendNTLMField(b, len(info), header+len(target))
	b = append(b, 6, 1, 0, 0, 0, 0, 0, 15) // a version that says NTLMSSP revision 15
	b = append(b, target...)
	return append(b, info...)
}

// authenticateMessage is what an AUTHENTICATE message says (MS-NLMP §2.2.1.3).
type authenticateMessage struct {
	ntResponse   []byte
	domain, user string
	flags        uint32
}

// parseAuthenticate reads
//
//	 0 signature (8)     8 type = 3 (4)   12 LM response   20 NT response
//	28 domain           36 user          44 workstation    52 session key
//	60 flags (4)       [64 version (8)  72 MIC (16)]       payload
//
// where the fields of the first lines are length, capacity and offset (8 bytes).
func parseAuthenticate(b []byte) (m authenticateMessage, err error) {
	const header = 64
	if err := checkNTLMHeader(b, 3, header); err != nil {
		return m, err
	}
	m.flags = binary.LittleEndian.Uint32(b[60:])
	if m.flags&flagUnicode == 0 {
		return m, errNTLMMalformed
	}
	field := func(at int) []byte {
		size := int(binary.LittleEndian.Uint16(b[at:]))
		offset := int64(binary.LittleEndian.Uint32(b[at+4:]))
		switch {
		case size == 0:
			return nil
		case offset < header || offset+int64(size) > int64(len(b)):
			err = errNTLMMalformed
			return nil
		}
		return b[offset : offset+int64(size)]
	}
	m.ntResponse = field(20)
	domain, user := field(28), field(36)
	if err != nil {
		return m, err
	}
	if m.domain, err = fromUTF16LE(domain); err != nil {
		return m, err
	}
	m.user, err = fromUTF16LE(user)
	return m, err
}

// checkNTLMv2 verifies an NTLMv2_RESPONSE (MS-NLMP §2.2.2.8, §3.3.2) and gives
// the session base key. The response is a 16-byte proof followed by
//
//	0 version 1, 1 (2)   2 reserved (6)   8 time (8)   16 client challenge (8)
//	24 reserved (4)     28 AV pairs
func checkNTLMv2(key, serverChallenge, response []byte) ([]byte, error) {
	if len(response) <= 24 {
		return nil, errNTLMVersion // a response of NTLMv1, or none
	}
	if len(response) < 16+28+4 || response[16] != 1 || response[17] != 1 {
		return nil, errNTLMMalformed
	}
	if !hmac.Equal(hmacMD5(key, serverChallenge, response[16:]), response[:16]) {
		return nil, errNTLMProof
	}
	return hmacMD5(key, response[:16]), nil
}

// checkMIC verifies the code over all three messages (MS-NLMP §3.1.5.1.2). The
// MIC itself, 16 bytes at offset 72, counts as zero.
func checkMIC(sessionKey, negotiate, challenge, authenticate []byte) bool {
	const at = 72
	if len(authenticate) < at+16 {
		return false
	}
	zeroed := bytes.Clone(authenticate)
	clear(zeroed[at : at+16])
	return hmac.Equal(hmacMD5(sessionKey, negotiate, challenge, zeroed), authenticate[at:at+16])
}

// ntHashOf is NTOWFv1: MD4 of the password in UTF-16LE (MS-NLMP §3.3.1).
func ntHashOf(password string) []byte {
	h := md4.New()
	h.Write(utf16le(password))
	return h.Sum(nil)
}

// ntowfv2 is NTOWFv2 (MS-NLMP §3.3.2). The user's name is folded to upper case,
// the domain's is taken as it was sent.
func ntowfv2(ntHash []byte, user, domain string) []byte {
	return hmacMD5(ntHash, utf16le(strings.ToUpper(user)+domain))
}

func checkNTLMHeader(b []byte, kind uint32, size int) error {
	switch {
	case len(b) < size || len(b) > ntlmMaxSize || string(b[:8]) != ntlmSignature:
		return errNTLMMalformed
	case binary.LittleEndian.Uint32(b[8:]) != kind:
		return errNTLMSequence
	}
	return nil
}

// parseAVPairs reads a list of (id, length, value) up to its end mark.
func parseAVPairs(b []byte) (map[uint16][]byte, error) {
	pairs := make(map[uint16][]byte)
	for len(b) >= 4 {
		id, size := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if id == avEOL {
			return pairs, nil
		}
		if b = b[4:]; size > len(b) {
			break
		}
		pairs[id] = b[:size]
		b = b[size:]
	}
	return nil, fmt.Errorf("%w: target information has no end", errNTLMMalformed)
}

func appendAVPair(b []byte, id uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, id)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func appendNTLMField(b []byte, size, offset int) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(size))
	b = binary.LittleEndian.AppendUint16(b, uint16(size))
	return binary.LittleEndian.AppendUint32(b, uint32(offset))
}

func hmacMD5(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func fromUTF16LE(b []byte) (string, error) {
	if len(b)%2 != 0 {
		return "", errNTLMMalformed
	}
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) > 0; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units)), nil
}

// fileTimeEpoch is how many seconds FILETIME, which counts 100 ns since
// 1601-01-01, began before Unix time.
const fileTimeEpoch = 11644473600

func toFileTime(t time.Time) uint64 {
	return uint64(t.Unix()+fileTimeEpoch)*1e7 + uint64(t.Nanosecond()/100)
}

func fileTime(ft uint64) time.Time {
	return time.Unix(int64(ft/1e7)-fileTimeEpoch, int64(ft%1e7)*100)
}
