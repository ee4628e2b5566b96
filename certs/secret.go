package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const redacted = "[redacted]"

// Secret is 32 random bytes that never print. They are behind a pointer, because
// fmt prints the fields of a value whose methods it may not call.
type Secret struct{ bytes *[32]byte }

// NewSecret makes a secret.
func NewSecret() Secret {
	s := Secret{new([32]byte)}
	_, _ = rand.Read(s.bytes[:]) // never fails
	return s
}

// SecretFrom makes a Secret of its 32 bytes, as Reveal gave them.
func SecretFrom(b []byte) (Secret, error) {
	s := Secret{new([32]byte)}
	if copy(s.bytes[:], b) != len(s.bytes) || len(b) != len(s.bytes) {
		return Secret{}, fmt.Errorf("certs: a secret of %d bytes", len(b))
	}
	return s, nil
}

// Reveal gives the bytes, to be stored encrypted or sent inside TLS.
func (s Secret) Reveal() []byte { b := s.value(); return b[:] }

// value is a copy of the bytes; zeros where there are none.
func (s Secret) value() (b [32]byte) {
	if s.bytes != nil {
		b = *s.bytes
	}
	return b
}

// Equal compares in constant time.
func (s Secret) Equal(o Secret) bool { return subtle.ConstantTimeCompare(s.Reveal(), o.Reveal()) == 1 }

// Hash is what is stored of a secret that is never shown again. The secret has
// 256 random bits, so a plain SHA-256 gives nothing away.
func (s Secret) Hash() [32]byte { return sha256.Sum256(s.Reveal()) }

// String does not give the secret away, nor do the others.
func (s Secret) String() string { return redacted }

// GoString is for %#v.
func (s Secret) GoString() string { return redacted }

// Format is for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue is for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON keeps it out of JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Key is a gateway's authentication key: all that a new node needs.
type Key struct {
	GatewayID string // 32 hexadecimal digits
	Secret    Secret
	Pin       Pin // of the relay's CA
}

// Token is a job's token.
type Token struct {
	JobID  string // 32 hexadecimal digits
	Secret Secret
	Pin    Pin
}

const (
	keyPrefix   = "ebbkey_"
	tokenPrefix = "ebbjob_"
	idSize      = 16
	payloadSize = 1 + idSize + 32 + 32
	checkSize   = 4
)

// FormatError is a text that is not a key or token, and why.
type FormatError struct {
	What   string // "authentication key" or "job token"
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("the %s is malformed: %s", e.What, e.Reason)
}

// Code names the error.
func (e *FormatError) Code() string {
	if e.What == whatToken {
		return "token-malformed"
	}
	return "key-malformed"
}

// Hop is where it matters.
func (e *FormatError) Hop() string { return "registration" }

// Advice says what to do.
func (e *FormatError) Advice() string {
	if e.What == whatToken {
		return "copy the token whole, as ebbgate job create printed it"
	}
	return "copy the key whole, as ebbgate gateway keys NAME prints it"
}

const (
	whatKey   = "authentication key"
	whatToken = "job token"
)

// ParseKey reads an authentication key. Space around it is ignored. Errors are
// *FormatError and do not quote it.
func ParseKey(s string) (Key, error) {
	id, secret, pin, err := parse(whatKey, keyPrefix, s)
	return Key{id, secret, pin}, err
}

// Encode is the key's text; String is redacted.
func (k Key) Encode() string { return encode(keyPrefix, k.GatewayID, k.Secret, k.Pin) }

// String does not give the key away.
func (k Key) String() string { return redacted }

// GoString is for %#v.
func (k Key) GoString() string { return redacted }

// LogValue is for slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// ParseToken reads a job token, as ParseKey does a key.
func ParseToken(s string) (Token, error) {
	id, secret, pin, err := parse(whatToken, tokenPrefix, s)
	return Token{id, secret, pin}, err
}

// Encode is the token's text; String is redacted.
func (t Token) Encode() string { return encode(tokenPrefix, t.JobID, t.Secret, t.Pin) }

// Hash is what the relay stores of the token.
func (t Token) Hash() [32]byte { return t.Secret.Hash() }

// String does not give the token away.
func (t Token) String() string { return redacted }

// GoString is for %#v.
func (t Token) GoString() string { return redacted }

// LogValue is for slog.
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

func encode(prefix, id string, secret Secret, pin Pin) string {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != idSize {
		panic("certs: BUG: id of a key or token is not 16 bytes")
	}
	payload := make([]byte, 0, payloadSize+checkSize)
	payload = append(payload, 1)
	payload = append(payload, raw...)
	payload = append(payload, secret.Reveal()...)
	payload = append(payload, pin[:]...)
	return prefix + base64.RawURLEncoding.EncodeToString(append(payload, check(prefix, payload)...))
}

// check tells mistyped texts apart from wrong ones. It protects nothing.
func check(prefix string, payload []byte) []byte {
	sum := sha256.Sum256(append([]byte(prefix), payload...))
	return sum[:checkSize]
}

func parse(what, prefix, s string) (id string, secret Secret, pin Pin, err error) {
	fail := func(format string, args ...any) (string, Secret, Pin, error) {
		return "", Secret{}, Pin{}, &FormatError{what, fmt.Sprintf(format, args...)}
	}
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, prefix)
	switch {
	case s == "":
		return fail("it is empty")
	case !ok && strings.HasPrefix(s, keyPrefix):
		return fail("this is an authentication key of a gateway")
	case !ok && strings.HasPrefix(s, tokenPrefix):
		return fail("this is a job token")
	case !ok:
		return fail("it does not begin with %s", prefix)
	}
	const full = payloadSize + checkSize
	if want := base64.RawURLEncoding.EncodedLen(full); len(text) < want {
		return fail("it is cut off: %d characters of %d", len(text)+len(prefix), want+len(prefix))
	} else if len(text) > want {
		return fail("it is too long: %d characters instead of %d", len(text)+len(prefix), want+len(prefix))
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != full { // even strict decoding skips line breaks
		return fail("it has a character that no key or token has")
	}
	payload := raw[:payloadSize]
	if !bytes.Equal(check(prefix, payload), raw[payloadSize:]) {
		return fail("its checksum is wrong, a character was changed")
	}
	if payload[0] != 1 {
		return fail("it is of version %d, which this program does not know", payload[0])
	}
	secret.bytes = new([32]byte)
	copy(secret.bytes[:], payload[1+idSize:])
	copy(pin[:], payload[1+idSize+32:])
	return hex.EncodeToString(payload[1 : 1+idSize]), secret, pin, nil
}
