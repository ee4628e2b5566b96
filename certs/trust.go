package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Trust is the CA generations that are believed. It is not changed once made.
type Trust struct {
	TrustDomain string
	Roots       []*x509.Certificate
}

const (
	maxChain      = 4
	maxChainBytes = 16 << 10
)

// VerifyError is a peer whose certificate is not what it must be. Issuer is who
// issued what was seen: a TLS-inspecting proxy shows itself there.
type VerifyError struct {
	Issuer  string
	Foreign bool // it is not of this CA at all
	Err     error
}

func (e *VerifyError) Error() string { return "certs: verify: " + e.Err.Error() }

// Unwrap is what was wrong.
func (e *VerifyError) Unwrap() error { return e.Err }

// Code names the error.
func (e *VerifyError) Code() string { return "certificate-invalid" }

// Verify verifies a chain, leaf first, at a time, and gives the leaf's identity.
func (t *Trust) Verify(chain []*x509.Certificate, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, &VerifyError{Err: errors.New("no certificate")}
	}
	leaf := chain[0]
	fail := func(foreign bool, err error) (Identity, error) {
		return Identity{}, &VerifyError{Issuer: issuerOf(leaf), Foreign: foreign, Err: err}
	}
	size := 0
	for _, c := range chain {
		size += len(c.Raw)
	}
	if len(chain) > maxChain || size > maxChainBytes {
		return fail(false, fmt.Errorf("a chain of %d certificates and %d bytes", len(chain), size))
	}
	if t == nil {
		return fail(false, errors.New("nothing is trusted here yet"))
	}
	roots := x509.NewCertPool()
	for _, r := range t.Roots {
		roots.AddCert(r)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fail(!t.issued(leaf), err)
	}
	if leaf.IsCA {
		return fail(false, errors.New("a CA is nobody's identity"))
	}
	id, err := CertificateIdentity(leaf)
	if err != nil {
		return fail(false, err)
	}
	if id.TrustDomain != t.TrustDomain {
		return fail(true, fmt.Errorf("the identity is of %s, not of %s", id.TrustDomain, t.TrustDomain))
	}
	return id, nil
}

// issued tells whether a CA of the trust signed a leaf. The error of
// x509.Certificate.Verify does not: a foreign certificate that has expired is
// only called expired.
func (t *Trust) issued(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(t.Roots, func(r *x509.Certificate) bool { return leaf.CheckSignatureFrom(r) == nil })
}

func issuerOf(c *x509.Certificate) string {
	s := c.Issuer.String()
	if len(s) > 200 {
		s = s[:200]
	}
	return s
}

// Holder holds the certificate that is used now. It is safe for concurrent use;
// connections made after Set use the new one.
type Holder struct {
	current atomic.Pointer[tls.Certificate]
}

// Set uses c from now on. Its Leaf must be set.
func (h *Holder) Set(c *tls.Certificate) { h.current.Store(c) }

// Certificate is the current one, or nil.
func (h *Holder) Certificate() *tls.Certificate { return h.current.Load() }

// ServerOptions are what a server asks of its clients.
type ServerOptions struct {
	ALPN []string
	// RequireClient refuses clients without a certificate; else one is asked
	// for, and verified where it is given.
	RequireClient bool
	// Accept decides about a verified client; nil accepts all of the trust.
	Accept func(Identity) error
}

var errNoCertificate = errors.New("certs: there is no certificate yet")

// ServerConfig is TLS 1.3 for the side that accepts: its own identity from h,
// clients verified against trust. Session tickets are off: a certificate must
// be valid at each connection.
func ServerConfig(h *Holder, trust func() *Trust, opt ServerOptions) *tls.Config {
	ask := tls.RequestClientCert
	if opt.RequireClient {
		ask = tls.RequireAnyClientCert
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: opt.ALPN, SessionTicketsDisabled: true, ClientAuth: ask,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := h.Certificate(); c != nil {
				return c, nil
			}
			return nil, errNoCertificate
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 && !opt.RequireClient {
				return nil
			}
			return verify(s, trust(), opt.Accept)
		},
	}
}

// ClientConfig is TLS 1.3 for the side that dials: h's certificate is shown
// where the server asks (h may be nil), the server is verified against trust
// and accept decides about its identity. Host names play no part.
func ClientConfig(h *Holder, trust func() *Trust, accept func(Identity) error, alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: alpn, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // VerifyConnection does it, against our own CA
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if h != nil {
				if c := h.Certificate(); c != nil {
					return c, nil
				}
			}
			return &tls.Certificate{}, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error { return verify(s, trust(), accept) },
	}
}

func verify(s tls.ConnectionState, trust *Trust, accept func(Identity) error) error {
	id, err := trust.Verify(s.PeerCertificates, time.Now())
	if err == nil && accept != nil {
		err = accept(id)
	}
	return err
}

// PinError is a relay whose CA is not the one that the key or token names.
type PinError struct {
	Issuer string // of the certificate that was seen
}

func (e *PinError) Error() string {
	return fmt.Sprintf("certs: the certificate was issued by %q, which is not the CA that the key or token names", e.Issuer)
}

// Code names the error.
func (e *PinError) Code() string { return "pin-mismatch" }

// PinnedConfig is TLS 1.3 for a newcomer who trusts nothing but the pin of his
// key or token: the server's chain must lead to a CA with this pin, and its
// leaf must be a relay's. got receives what was verified; it must not block.
func PinnedConfig(pin Pin, alpn []string, got func(*Trust, Identity)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: alpn, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // VerifyConnection does it, against the pin
		VerifyConnection: func(s tls.ConnectionState) error {
			trust, err := pinned(pin, s.PeerCertificates)
			if err != nil {
				return err
			}
			id, err := trust.Verify(s.PeerCertificates, time.Now())
			if err == nil && id.Role != RoleRelay {
				err = &VerifyError{Issuer: issuerOf(s.PeerCertificates[0]), Err: fmt.Errorf("%s is not a relay", id)}
			}
			if err != nil {
				return err
			}
			if got != nil {
				got(trust, id)
			}
			return nil
		},
	}
}

// pinned finds the CA with the pin in a chain.
func pinned(pin Pin, chain []*x509.Certificate) (*Trust, error) {
	if len(chain) == 0 {
		return nil, &PinError{}
	}
	for _, c := range chain[1:min(len(chain), maxChain)] {
		if PinOf(c) != pin {
			continue
		}
		domain, err := authorityDomain(c)
		if err != nil {
			return nil, &VerifyError{Issuer: issuerOf(chain[0]), Err: err}
		}
		return &Trust{TrustDomain: domain, Roots: []*x509.Certificate{c}}, nil
	}
	return nil, &PinError{Issuer: issuerOf(chain[0])}
}

// PeerIdentity is the identity of the peer of a connection that one of this
// package's configurations has verified; false where it showed none.
func PeerIdentity(s tls.ConnectionState) (Identity, bool) {
	if !s.HandshakeComplete || len(s.PeerCertificates) == 0 {
		return Identity{}, false
	}
	id, err := CertificateIdentity(s.PeerCertificates[0])
	return id, err == nil
}
