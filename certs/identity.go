package certs

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Role is what an identity is.
type Role string

// The roles.
const (
	RoleNode  Role = "node"
	RoleJob   Role = "job"
	RoleRelay Role = "relay"
)

// Identity names a node, a job or a relay. It is comparable.
type Identity struct {
	TrustDomain string // the id of the relay's instance
	Role        Role
	Tenant      string // of nodes and jobs
	Gateway     string // of nodes
	Name        string
}

var (
	validName   = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	validDomain = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,127}$`)
)

// ValidName tells whether s may name a tenant, gateway, node, store, job or
// relay: 1 to 63 of a-z, 0-9 and -.
func ValidName(s string) bool { return validName.MatchString(s) }

// String is the identity's SPIFFE URI.
func (id Identity) String() string {
	base := "spiffe://" + id.TrustDomain
	switch id.Role {
	case RoleNode:
		return base + "/tenant/" + id.Tenant + "/gateway/" + id.Gateway + "/node/" + id.Name
	case RoleJob:
		return base + "/tenant/" + id.Tenant + "/job/" + id.Name
	case RoleRelay:
		return base + "/relay/" + id.Name
	}
	return base + "/invalid"
}

// ParseIdentity reads a SPIFFE URI in exactly the form that String writes.
func ParseIdentity(s string) (Identity, error) {
	bad := fmt.Errorf("certs: %.200q is not an identity", s)
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok || len(s) > 512 {
		return Identity{}, bad
	}
	parts := strings.Split(rest, "/")
	id := Identity{TrustDomain: parts[0]}
	switch {
	case len(parts) == 7 && parts[1] == "tenant" && parts[3] == "gateway" && parts[5] == "node":
		id.Role, id.Tenant, id.Gateway, id.Name = RoleNode, parts[2], parts[4], parts[6]
	case len(parts) == 5 && parts[1] == "tenant" && parts[3] == "job":
		id.Role, id.Tenant, id.Name = RoleJob, parts[2], parts[4]
	case len(parts) == 3 && parts[1] == "relay":
		id.Role, id.Name = RoleRelay, parts[2]
	default:
		return Identity{}, bad
	}
	if !id.valid() {
		return Identity{}, bad
	}
	return id, nil
}

func (id Identity) valid() bool {
	if !validDomain.MatchString(id.TrustDomain) || !ValidName(id.Name) {
		return false
	}
	switch id.Role {
	case RoleNode:
		return ValidName(id.Tenant) && ValidName(id.Gateway)
	case RoleJob:
		return ValidName(id.Tenant) && id.Gateway == ""
	case RoleRelay:
		return id.Tenant == "" && id.Gateway == ""
	}
	return false
}

func (id Identity) uri() *url.URL {
	u, err := url.Parse(id.String())
	if err != nil {
		panic("certs: BUG: identity is not a URI: " + err.Error())
	}
	return u
}

// CertificateIdentity is the identity in a certificate: its one URI SAN.
// Certificates with more URIs, or other names of whatever kind beside it, have
// none.
func CertificateIdentity(c *x509.Certificate) (Identity, error) {
	name, err := onlyURI(c)
	if err != nil {
		return Identity{}, err
	}
	return ParseIdentity(name)
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// onlyURI is a certificate's one subject alternative name (RFC 5280 §4.2.1.6),
// as it stands there: crypto/x509 leaves out the kinds of names that it does not
// know, and package url reads several spellings as one.
func onlyURI(c *x509.Certificate) (string, error) {
	const tagURI = 6
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) != 0 {
			return "", errors.New("certs: the certificate's names are malformed")
		}
		if len(names) != 1 {
			return "", fmt.Errorf("certs: a certificate with %d names has no identity", len(names))
		}
		if n := names[0]; n.Class == asn1.ClassContextSpecific && n.Tag == tagURI && !n.IsCompound {
			return string(n.Bytes), nil
		}
	}
	return "", errors.New("certs: the certificate has no URI, so it has no identity")
}
