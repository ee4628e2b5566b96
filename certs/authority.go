package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Pin is the SHA-256 of the SubjectPublicKeyInfo of a CA generation.
type Pin [32]byte

// PinOf is the pin of a CA certificate.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

const (
	authorityLife = 20 * 365 * 24 * time.Hour
	backdate      = 15 * time.Minute // clocks differ
)

// Authority is one generation of the relay's CA: certificate and key. It is
// safe for concurrent use.
type Authority struct {
	certificate *x509.Certificate
	key         ed25519.PrivateKey
	domain      string
	generation  int
}

// NewAuthority makes a CA generation with a fresh key.
func NewAuthority(trustDomain string, generation int, now time.Time) (*Authority, error) {
	if !validDomain.MatchString(trustDomain) {
		return nil, fmt.Errorf("certs: %q is not a trust domain", trustDomain)
	}
	key, err := GenerateKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"Ebbgate"}, CommonName: "Ebbgate CA " + trustDomain, SerialNumber: strconv.Itoa(generation)},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:     []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certs: make the CA: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("certs: make the CA: %w", err)
	}
	return ParseAuthority(der, encoded)
}

// ParseAuthority reads a generation that NewAuthority made.
func ParseAuthority(certDER, keyPKCS8 []byte) (*Authority, error) {
	c, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("certs: CA certificate: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyPKCS8)
	if err != nil {
		return nil, fmt.Errorf("certs: CA key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok || !key.Public().(ed25519.PublicKey).Equal(c.PublicKey) {
		return nil, errors.New("certs: the CA's key is not its certificate's")
	}
	domain, err := authorityDomain(c)
	if err != nil {
		return nil, err
	}
	generation, err := strconv.Atoi(c.Subject.SerialNumber)
	if err != nil || generation < 1 {
		return nil, errors.New("certs: the CA certificate has no generation")
	}
	return &Authority{certificate: c, key: key, domain: domain, generation: generation}, nil
}

// authorityDomain is the trust domain of a CA certificate of the kind that
// NewAuthority makes. Its signature by itself is checked: a pin covers the key
// alone, so this is what makes the rest, the domain above all, the CA's own words.
func authorityDomain(c *x509.Certificate) (string, error) {
	if _, ok := c.PublicKey.(ed25519.PublicKey); !ok || !c.IsCA {
		return "", errors.New("certs: the certificate is not of a CA of this kind")
	}
	name, err := onlyURI(c)
	if err != nil {
		return "", fmt.Errorf("certs: CA certificate: %w", err)
	}
	domain, ok := strings.CutPrefix(name, "spiffe://")
	if !ok || !validDomain.MatchString(domain) {
		return "", fmt.Errorf("certs: %.200q in the CA certificate is not a trust domain", name)
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return "", fmt.Errorf("certs: CA certificate: %w", err)
	}
	return domain, nil
}

// Certificate is the generation's self-signed certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// MarshalKey is the private key, PKCS #8 (RFC 5958).
func (a *Authority) MarshalKey() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(a.key) }

// Generation counts CA generations of an instance from 1.
func (a *Authority) Generation() int { return a.generation }

// TrustDomain is the instance's id.
func (a *Authority) TrustDomain() string { return a.domain }

// Pin is the generation's pin.
func (a *Authority) Pin() Pin { return PinOf(a.certificate) }

// Issue makes a certificate, for client and server, of id for a public key.
func (a *Authority) Issue(id Identity, pub crypto.PublicKey, now time.Time, ttl time.Duration) ([]byte, error) {
	if !id.valid() || id.TrustDomain != a.domain {
		return nil, fmt.Errorf("certs: issue: %q is not an identity of %s", id, a.domain)
	}
	if err := checkPublicKey(pub); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(ttl),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{id.uri()}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("certs: issue: %w", err)
	}
	return der, nil
}

// validHost is a DNS name, perhaps with a wildcard, and nothing that a reader of
// certificates could take for two names.
var validHost = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// IssuedAt is when Issue made a certificate, to the second below.
func IssuedAt(c *x509.Certificate) time.Time { return c.NotBefore.Add(backdate) }

// IssuePublic makes a web server's certificate, with a P-256 key of its own, for
// host names and addresses.
func (a *Authority) IssuePublic(hosts []string, now time.Time, ttl time.Duration) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certs: issue: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"Ebbgate"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(ttl),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		name := strings.TrimSuffix(h, ".")
		switch ip, err := netip.ParseAddr(h); {
		case err == nil:
			template.IPAddresses = append(template.IPAddresses, ip.WithZone("").AsSlice())
		case len(name) <= 253 && validHost.MatchString(name):
			template.DNSNames = append(template.DNSNames, name)
		default:
			return nil, fmt.Errorf("certs: issue: %.300q is neither a host name nor an address", h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("certs: issue: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certs: issue: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic("certs: BUG: no random numbers: " + err.Error())
	}
	return n.Add(n, big.NewInt(1))
}

func checkPublicKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return fmt.Errorf("certs: keys are Ed25519 or P-256, not %T", pub)
}

// GenerateKey makes an Ed25519 key.
func GenerateKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certs: make a key: %w", err)
	}
	return key, nil
}

// maxCSR bounds a certificate request, in bytes.
const maxCSR = 4 << 10

// NewCSR makes a certificate request (RFC 2986) that says nothing but the key.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("certs: make a request: %w", err)
	}
	return der, nil
}

// CheckCSR checks a request's size and signature and gives its public key, which
// is all that is ever taken from it.
func CheckCSR(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("certs: a request of %d bytes", len(der))
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certs: request: %w", err)
	}
	if err := checkPublicKey(r.PublicKey); err != nil {
		return nil, err
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certs: request: %w", err)
	}
	return r.PublicKey, nil
}

// EnrolLabel is the label of the keying material (RFC 8446 §7.5) that proofs of
// possession sign.
const EnrolLabel = "EXPORTER-ebbgate-enrol"

const proofPrefix = "ebbgate proof of possession v1\x00"

// Prove signs a connection's keying material: who made the proof holds the key
// and is at the end of this very connection.
func Prove(key crypto.Signer, exporter []byte) ([]byte, error) {
	message := append([]byte(proofPrefix), exporter...)
	switch key.Public().(type) {
	case ed25519.PublicKey:
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	default:
		sum := sha256.Sum256(message)
		return key.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
}

// CheckProof checks what Prove made.
func CheckProof(pub crypto.PublicKey, exporter, proof []byte) error {
	message := append([]byte(proofPrefix), exporter...)
	ok := false
	switch k := pub.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, message, proof)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		ok = ecdsa.VerifyASN1(k, sum[:], proof)
	}
	if !ok || len(exporter) == 0 {
		return errors.New("certs: the proof of possession is wrong")
	}
	return nil
}
