package certs

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
)

// SaveIdentity writes the identity into dir, all of it or nothing, readable by
// the owner alone.
func SaveIdentity(dir string, s *Saved) error {
	if _, err := s.Trust(); err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		return fmt.Errorf("certs: save: %w", err)
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
	if err := replace(filepath.Join(dir, IdentityFile), b.Bytes()); err != nil {
		return fmt.Errorf("certs: save: %w", err)
	}
	return nil
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
	s := &Saved{Counter: -1}
	for len(bytes.TrimSpace(raw)) > 0 {
		block, rest := pem.Decode(raw)
		if block == nil || len(bytes.TrimSpace(raw[:bytes.IndexByte(raw, '-')])) > 0 {
			return nil, errors.New("it is not PEM")
		}
		raw = rest
		switch block.Type {
		case blockCert:
			s.Chain = append(s.Chain, block.Bytes)
		case blockRoot:
			s.Roots = append(s.Roots, block.Bytes)
		case blockKey:
			if err := s.decodeKey(block); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("it has a block %.40q", block.Type)
		}
	}
	if s.Key == nil {
		return nil, errors.New("it has no key")
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
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	_ = d.Sync() // not every platform can
	return nil
}
