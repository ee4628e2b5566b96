package certs

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
)

// IdentityFile is where SaveIdentity keeps an identity in a directory.
const IdentityFile = "identity.pem"

// Saved is an identity on disk: the key, which never leaves the machine, the
// certificate's chain, the CA generations that it believes, and how often the
// certificate was renewed.
type Saved struct {
	Key     ed25519.PrivateKey
	Chain   [][]byte // DER, leaf first
	Roots   [][]byte // DER
	Counter int
}

// CorruptError is an identity file that cannot be used.
type CorruptError struct {
	Path string
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged: %v", e.Path, e.Err)
}

// Unwrap is what was wrong.
func (e *CorruptError) Unwrap() error { return e.Err }

// Code names the error.
func (e *CorruptError) Code() string { return "identity-corrupt" }

// Hop is where it matters.
func (e *CorruptError) Hop() string { return "registration" }

// Advice says what to do.
func (e *CorruptError) Advice() string {
	return "restore the file from a backup, or remove the state directory and register the machine again under another name"
}

// Certificate is the identity for a Holder.
func (s *Saved) Certificate() (*tls.Certificate, error) {
	if len(s.Chain) == 0 {
		return nil, errors.New("certs: no certificate")
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || !pub.Equal(s.Key.Public()) {
		return nil, errors.New("certs: the key is not the certificate's")
	}
	return &tls.Certificate{Certificate: s.Chain, PrivateKey: s.Key, Leaf: leaf}, nil
}

// Trust is what the identity believes.
func (s *Saved) Trust() (*Trust, error) {
	c, err := s.Certificate()
	if err != nil {
		return nil, err
	}
	id, err := CertificateIdentity(c.Leaf)
	if err != nil {
		return nil, err
	}
	t := &Trust{TrustDomain: id.TrustDomain}
	for _, der := range s.Roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certs: %w", err)
		}
		t.Roots = append(t.Roots, root)
	}
	return t, s.intact(c.Leaf, t.Roots)
}

// intact checks signatures, so that no damage goes unseen. Time plays no part: an
// expired identity is one all the same.
func (s *Saved) intact(leaf *x509.Certificate, roots []*x509.Certificate) error {
	signed := false
	for _, root := range roots {
		if err := root.CheckSignatureFrom(root); err != nil {
			return fmt.Errorf("certs: a trusted CA: %w", err)
		}
		signed = signed || leaf.CheckSignatureFrom(root) == nil
	}
	if !signed {
		return errors.New("certs: no trusted CA signed the certificate")
	}
	return nil
}

const (
	blockKey  = "PRIVATE KEY"
	blockCert = "CERTIFICATE"
	blockRoot = "TRUSTED CERTIFICATE"
	blockSum  = "EBBGATE CHECKSUM" // SHA-256 of all bytes before it

	maxIdentityFile = 256 << 10
)

// SaveIdentity writes the identity into dir, all of it or nothing, readable by
// the owner alone.
func SaveIdentity(dir string, s *Saved) error {
	if _, err := s.Trust(); err != nil {
		return err
	}
	content, err := s.encode()
	if err == nil {
		err = replace(filepath.Join(dir, IdentityFile), content)
	}
	if err != nil {
		return fmt.Errorf("certs: save: %w", err)
	}
	return nil
}

// encode writes what decodeIdentity reads.
func (s *Saved) encode() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		return nil, err
	}
	if s.Counter < 0 {
		return nil, fmt.Errorf("the renewal counter is %d", s.Counter)
	}
	var b bytes.Buffer
	encode := func(block *pem.Block) { _ = pem.Encode(&b, block) } // a Buffer takes everything
	encode(&pem.Block{Type: blockKey, Headers: map[string]string{"Counter": strconv.Itoa(s.Counter)}, Bytes: key})
	for _, der := range s.Chain {
		encode(&pem.Block{Type: blockCert, Bytes: der})
	}
	for _, der := range s.Roots {
		encode(&pem.Block{Type: blockRoot, Bytes: der})
	}
	sum := sha256.Sum256(b.Bytes())
	encode(&pem.Block{Type: blockSum, Bytes: sum[:]})
	if b.Len() > maxIdentityFile {
		return nil, fmt.Errorf("the identity has %d bytes", b.Len())
	}
	return b.Bytes(), nil
}

// LoadIdentity reads what SaveIdentity wrote: fs.ErrNotExist where there is
// nothing, *CorruptError where it is damaged.
func LoadIdentity(dir string) (*Saved, error) {
	path := filepath.Join(dir, IdentityFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("certs: load: %w", err)
	}
	s, err := decodeIdentity(raw)
	if err == nil {
		_, err = s.Trust()
	}
	if err != nil {
		return nil, &CorruptError{path, err}
	}
	return s, nil
}

func decodeIdentity(raw []byte) (*Saved, error) {
	if len(raw) > maxIdentityFile {
		return nil, fmt.Errorf("it has %d bytes", len(raw))
	}
	s := &Saved{Counter: -1}
	for rest := raw; len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("it is cut off, or not PEM")
		}
		switch block.Type {
		case blockCert:
			s.Chain = append(s.Chain, block.Bytes)
		case blockRoot:
			s.Roots = append(s.Roots, block.Bytes)
		case blockKey:
			if err := s.decodeKey(block); err != nil {
				return nil, err
			}
		}
	}
	if s.Key == nil {
		return nil, errors.New("it has no key")
	}
	// There is one spelling of each identity: what was skipped above, a wrong
	// checksum and anything else that was altered shows here.
	if again, err := s.encode(); err != nil || !bytes.Equal(again, raw) {
		return nil, errors.New("it was altered after it was written")
	}
	return s, nil
}

func (s *Saved) decodeKey(block *pem.Block) error {
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	counter, err := strconv.Atoi(block.Headers["Counter"])
	if !ok || err != nil || counter < 0 || s.Key != nil {
		return errors.New("its key is not one of this program's")
	}
	s.Key, s.Counter = key, counter
	return nil
}

// replace writes a file so that a crash leaves the old one or the new one.
func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	if runtime.GOOS == "windows" {
		return nil // it cannot sync a directory
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
