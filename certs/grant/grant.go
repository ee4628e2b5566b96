// Package grant signs and verifies permissions for dials.
//
// The relay signs a [Grant] with its own identity's key; the node verifies it
// with a [Verifier] before it dials. A grant names the node that it is for, the
// ingress that may use it, and the store; it lives a minute and serves any
// number of streams of its run until then. Its form is a JWT (RFC 7519) signed
// with EdDSA (RFC 8037), with the signer's chain in x5c (RFC 7515 §4.1.6).
package grant

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/ebbgate/ebbgate/certs"
)

// MaxLife is the longest that a grant may have to live.
const MaxLife = 60 * time.Second

// leeway is how far the relay's clock and the node's may differ.
const leeway = 60 * time.Second

// Grant is a permission for dials.
type Grant struct {
	ID      string
	Tenant  string
	Gateway string
	Node    string // identity of the node that it is for
	Store   string
	Job     string
	Run     string
	Ingress string // identity of the ingress that may use it
	Expires time.Time
}

// Error is a grant that is not accepted.
type Error struct {
	Expired bool
	Reason  string
}

func (e *Error) Error() string { return "grant: " + e.Reason }

// Code names the error.
func (e *Error) Code() string {
	if e.Expired {
		return "grant-expired"
	}
	return "grant-invalid"
}

func invalid(format string, args ...any) error { return &Error{Reason: fmt.Sprintf(format, args...)} }

// claims is a grant on the wire.
type claims struct {
	jwt.RegisteredClaims
	Tenant  string `json:"ten"`
	Gateway string `json:"gw"`
	Store   string `json:"store"`
	Job     string `json:"job"`
	Run     string `json:"run"`
	Ingress string `json:"ing"`
}

const typ = "ebbgate-grant+jwt"

// Signer signs grants with a relay's identity. It is safe for concurrent use.
type Signer struct {
	key    ed25519.PrivateKey
	issuer string
	x5c    []string
}

// NewSigner makes a signer of a relay's key and its chain (DER, leaf first).
func NewSigner(key ed25519.PrivateKey, chain [][]byte) (*Signer, error) {
	if len(chain) == 0 {
		return nil, errors.New("grant: no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	id, err := certs.CertificateIdentity(leaf)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); id.Role != certs.RoleRelay || !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("grant: %s with this key signs no grants", id)
	}
	s := &Signer{key: key, issuer: id.String()}
	for _, der := range chain {
		s.x5c = append(s.x5c, base64.StdEncoding.EncodeToString(der))
	}
	return s, nil
}

// Sign signs a grant, which may live at most MaxLife from now.
func (s *Signer) Sign(g Grant, now time.Time) (string, error) {
	if g.Expires.After(now.Add(MaxLife + time.Second)) {
		return "", errors.New("grant: it would live too long")
	}
	if err := g.check(); err != nil {
		return "", err
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: g.ID, Issuer: s.issuer, Audience: jwt.ClaimStrings{g.Node},
			ExpiresAt: jwt.NewNumericDate(g.Expires), IssuedAt: jwt.NewNumericDate(now),
		},
		Tenant: g.Tenant, Gateway: g.Gateway, Store: g.Store, Job: g.Job, Run: g.Run, Ingress: g.Ingress,
	})
	token.Header["typ"] = typ
	token.Header["x5c"] = s.x5c
	text, err := token.SignedString(s.key)
	if err != nil {
		return "", fmt.Errorf("grant: sign: %w", err)
	}
	if len(text) > maxToken {
		return "", fmt.Errorf("grant: it would have %d bytes", len(text))
	}
	return text, nil
}

// maxRun bounds the name of a run, which whoever runs the job makes up, in bytes.
const maxRun = 256

// check refuses what no signer signs and no verifier accepts.
func (g *Grant) check() error {
	if !certs.ValidName(g.Store) || !certs.ValidName(g.Job) {
		return invalid("it names no store or no job")
	}
	if len(g.Run) > maxRun || strings.ContainsFunc(g.Run, unicode.IsControl) || !utf8.ValidString(g.Run) {
		return invalid("the name of its run is not one line of at most %d bytes", maxRun)
	}
	id, err := certs.ParseIdentity(g.Ingress)
	if err != nil || id.Role == certs.RoleNode {
		return invalid("it names no ingress")
	}
	return nil
}

// maxToken bounds a grant, in bytes; maxCached the verified ones that are
// remembered.
const (
	maxToken  = 8 << 10
	maxCached = 1024
)

// Verifier verifies grants for one node. It is safe for concurrent use.
type Verifier struct {
	self  certs.Identity
	trust func() *certs.Trust

	mu     sync.Mutex
	cached map[string]Grant // by token
}

// NewVerifier makes the verifier of the node self.
func NewVerifier(self certs.Identity, trust func() *certs.Trust) *Verifier {
	return &Verifier{self: self, trust: trust, cached: make(map[string]Grant)}
}

// Verify accepts a grant for this node that a relay of the trust signed, that
// has not expired at now, and that peer, the lane's verified identity, may use:
// the relay or the job that it names as its ingress. Errors are *Error.
func (v *Verifier) Verify(token string, peer certs.Identity, now time.Time) (Grant, error) {
	if len(token) > maxToken {
		return Grant{}, invalid("it has %d bytes", len(token))
	}
	v.mu.Lock()
	g, ok := v.cached[token]
	v.mu.Unlock()
	if !ok {
		if strings.ContainsAny(token, "\r\n") { // which base64 skips, so that one grant had many spellings
			return Grant{}, invalid("it has a line break inside")
		}
		var err error
		if g, err = v.parse(token, now); err != nil {
			return Grant{}, err
		}
	}
	if now.After(g.Expires.Add(leeway)) {
		return Grant{}, &Error{Expired: true, Reason: fmt.Sprintf("it expired %v ago", now.Sub(g.Expires).Round(time.Second))}
	}
	if g.Ingress != peer.String() {
		return Grant{}, invalid("it is for the ingress %s, not for %s", g.Ingress, peer)
	}
	if peer.Role == certs.RoleJob && (peer.Name != g.Job || peer.Tenant != g.Tenant) {
		return Grant{}, invalid("it is of job %s", g.Job)
	}
	if !ok {
		v.remember(token, g, now)
	}
	return g, nil
}

func (v *Verifier) remember(token string, g Grant, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.cached) >= maxCached {
		for k, old := range v.cached {
			if now.After(old.Expires.Add(leeway)) {
				delete(v.cached, k)
			}
		}
	}
	for k := range v.cached { // any one: forgetting costs a signature, no more
		if len(v.cached) < maxCached {
			break
		}
		delete(v.cached, k)
	}
	v.cached[token] = g
}

// parse verifies everything that does not depend on time passing or on who
// shows the grant.
func (v *Verifier) parse(text string, now time.Time) (Grant, error) {
	var c claims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	token, err := parser.ParseWithClaims(text, &c, func(t *jwt.Token) (any, error) { return v.keyOf(t, &c, now) })
	if err != nil {
		var own *Error
		if errors.As(err, &own) {
			return Grant{}, own
		}
		return Grant{}, invalid("it is malformed: %.200q", err.Error())
	}
	if _, critical := token.Header["crit"]; critical || token.Header["typ"] != typ {
		return Grant{}, invalid("it is a token of another kind")
	}
	if len(c.Audience) != 1 || c.Audience[0] != v.self.String() {
		return Grant{}, invalid("it is not for this node")
	}
	if c.Tenant != v.self.Tenant || c.Gateway != v.self.Gateway {
		return Grant{}, invalid("it is for gateway %.63q of tenant %.63q", c.Gateway, c.Tenant)
	}
	if c.ExpiresAt == nil || c.IssuedAt == nil || c.ExpiresAt.Sub(c.IssuedAt.Time) > MaxLife+2*time.Second {
		return Grant{}, invalid("it lives too long")
	}
	if soon := now.Add(leeway); c.IssuedAt.After(soon) || c.NotBefore != nil && c.NotBefore.After(soon) {
		return Grant{}, invalid("it begins in %v: do the clocks of the node and of the relay agree?", c.IssuedAt.Sub(now).Round(time.Second))
	}
	g := Grant{
		ID: c.ID, Tenant: c.Tenant, Gateway: c.Gateway, Node: c.Audience[0], Store: c.Store, Job: c.Job, Run: c.Run,
		Ingress: c.Ingress, Expires: c.ExpiresAt.Time,
	}
	return g, g.check()
}

// keyOf gives the signer's key after its chain was verified: a relay of the
// trust, and the one that the grant names.
func (v *Verifier) keyOf(t *jwt.Token, c *claims, now time.Time) (any, error) {
	list, ok := t.Header["x5c"].([]any)
	if !ok || len(list) == 0 || len(list) > 4 {
		return nil, invalid("it has no chain of certificates")
	}
	var chain []*x509.Certificate
	for _, entry := range list {
		text, _ := entry.(string)
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, invalid("its chain is not base64")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, invalid("its chain: %v", err)
		}
		chain = append(chain, cert)
	}
	id, err := v.trust().Verify(chain, now)
	if err != nil {
		return nil, invalid("its signer is not trusted: %v", err)
	}
	if id.Role != certs.RoleRelay || id.String() != c.Issuer {
		return nil, invalid("%s signed it, who is not the relay that it names", id)
	}
	key, ok := chain[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, invalid("its signer's key is not Ed25519")
	}
	return key, nil
}
