package state

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/ebbgate/ebbgate/certs"
)

// keyring is what state.key is used for: one derived key a purpose, different
// for each instance.
type keyring struct {
	secrets cipher.AEAD
	rows    []byte
	marker  []byte
}

// Format keeps keys out of what is printed: fmt looks into unexported fields
// without asking them.
func (keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

const redacted = "[redacted]"

func newKeyring(master certs.Secret, instance string) (*keyring, error) {
	derive := func(purpose string) ([]byte, error) {
		return hkdf.Key(sha256.New, master.Reveal(), []byte(instance), "ebbgate state "+purpose, 32)
	}
	secrets, err1 := derive("secrets v1")
	rows, err2 := derive("rows v1")
	marker, err3 := derive("marker v1")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(secrets)
	if err != nil {
		return nil, err
	}
	return &keyring{secrets: aead, rows: rows, marker: marker}, nil
}

// encrypt makes text of a secret. The place, which column of which row, is
// authenticated, so that a secret cannot be moved to another.
func (k *keyring) encrypt(secret []byte, place string) string {
	nonce := make([]byte, k.secrets.NonceSize(), k.secrets.NonceSize()+len(secret)+k.secrets.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return base64.StdEncoding.EncodeToString(k.secrets.Seal(nonce, nonce, secret, []byte(place)))
}

func (k *keyring) decrypt(text, place string) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < k.secrets.NonceSize() {
		return nil, errors.New("not an encrypted secret")
	}
	n := k.secrets.NonceSize()
	plain, err := k.secrets.Open(nil, raw[:n], raw[n:], []byte(place))
	if err != nil {
		return nil, errors.New("a secret does not decrypt")
	}
	return plain, nil
}

// seal is the HMAC-SHA-256 of a row.
type seal [sha256.Size]byte

// xor adds a row to a sum of rows, or takes it away.
func (s seal) xor(o seal) seal {
	for i := range s {
		s[i] ^= o[i]
	}
	return s
}

func (s seal) String() string { return base64.StdEncoding.EncodeToString(s[:]) }

func parseSeal(text string) (s seal, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || copy(s[:], raw) != len(s) || len(raw) != len(s) {
		return seal{}, errors.New("not a seal")
	}
	return s, nil
}

// row computes the seal of a row's columns. Empty ones and zeros are left out.
func (k *keyring) row(table string, columns map[string]any) (s seal) {
	h := hmac.New(sha256.New, k.rows)
	text := func(t string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(t)))
		h.Write(n[:])
		h.Write([]byte(t))
	}
	text(table)
	for _, name := range slices.Sorted(maps.Keys(columns)) {
		switch v := columns[name].(type) {
		case string:
			if v != "" {
				text(name)
				text("text")
				text(v)
			}
		case int64:
			if v != 0 {
				text(name)
				text("number")
				var n [8]byte
				binary.BigEndian.PutUint64(n[:], uint64(v))
				h.Write(n[:])
			}
		default:
			panic("state: BUG: a column is neither text nor number")
		}
	}
	h.Sum(s[:0])
	return s
}

// file computes the HMAC of the marker's text.
func (k *keyring) file(text []byte) []byte {
	h := hmac.New(sha256.New, k.marker)
	h.Write(text)
	return h.Sum(nil)
}
