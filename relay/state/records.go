package state

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// DefaultTenant exists from the start.
const DefaultTenant = "default"

// Gateway is a logical gateway.
type Gateway struct {
	Tenant  string
	Name    string
	ID      string // 32 hexadecimal digits; what its authentication keys carry
	Created time.Time
}

// The slots of a gateway's two authentication keys.
const (
	Key1 = "key1"
	Key2 = "key2"
)

// Node is a registered connector machine.
type Node struct {
	Tenant, Gateway, Name string

	PublicKey   []byte // PKIX; of the certificate that was asked for last
	PreviousKey []byte // PKIX; of the one before, for a node that never got the last; nil at first
	Counter     int    // how often its certificate was renewed
	Stores      []StoreRow
	Created     time.Time
}

// StoreRow is a store that a node announced, remembered while it is offline.
type StoreRow struct {
	Name    string   `json:"name"`
	Port    int      `json:"port"`
	Aliases []string `json:"aliases,omitempty"`
}

func (r StoreRow) equal(o StoreRow) bool {
	return r.Name == o.Name && r.Port == o.Port && slices.Equal(r.Aliases, o.Aliases)
}

// Job is a cloud-side principal.
type Job struct {
	Tenant, Name string

	ID      string   // of its token: 32 hexadecimal digits
	Allow   []string // gateway/store, or gateway/* for all its stores; sorted
	Created time.Time
	Revoked bool
	// RevokedAt is when; zero: it was not.
	RevokedAt time.Time
}

// Allows tells whether the job may dial a store.
func (j Job) Allows(gateway, store string) bool {
	return !j.Revoked && gateway != "" && store != "" && slices.ContainsFunc(j.Allow, func(entry string) bool {
		g, s, ok := strings.Cut(entry, "/")
		return ok && g == gateway && (s == store || s == anyStore)
	})
}

const anyStore = "*"

// Bounds of what a record holds.
const (
	maxAllow     = 1000
	maxStores    = 1000
	maxAliases   = 64  // of a store
	maxAlias     = 300 // bytes: a host name and a port
	maxNodes     = 10000
	maxPublicKey = 1 << 10 // bytes
)

func invalid(code, advice, format string, args ...any) *Error {
	return &Error{kind: ErrInvalid, code: code, message: fmt.Sprintf(format, args...), advice: advice}
}

// checkName refuses what cannot be the name of a tenant, gateway, node, store or
// job; what says which.
func checkName(what, name string) error {
	if certs.ValidName(name) {
		return nil
	}
	if name == "" {
		return invalid("name-invalid", "give a name, for example north-1", "a %s needs a name", what)
	}
	return invalid("name-invalid", "use 1 to 63 of a-z, 0-9 and -, for example north-1", "%.80q cannot be the name of a %s", name, what)
}

func checkNames(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := checkName(pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// checkPublicKey refuses what is no public key.
func checkPublicKey(pub []byte) error {
	if len(pub) <= maxPublicKey {
		if _, err := x509.ParsePKIXPublicKey(pub); err == nil {
			return nil
		}
	}
	return invalid("key-invalid", "use the same version at both ends", "the node's public key, of %d bytes, cannot be read", len(pub))
}

// checkAllow is an allow list sorted and without repetitions.
func checkAllow(allow []string) ([]string, error) {
	const advice = "name each store as GATEWAY/STORE, or GATEWAY/* for all of a gateway"
	if len(allow) == 0 {
		return nil, invalid("allow-invalid", advice, "the job may dial nothing")
	}
	if len(allow) > maxAllow {
		return nil, invalid("allow-invalid", "use GATEWAY/* where a job may dial all stores of a gateway", "%d entries in the allow list, at most %d", len(allow), maxAllow)
	}
	for _, entry := range allow {
		gateway, store, ok := strings.Cut(entry, "/")
		if !ok || !certs.ValidName(gateway) || store != anyStore && !certs.ValidName(store) {
			return nil, invalid("allow-invalid", advice+"; names are 1 to 63 of a-z, 0-9 and -", "%.160q names no store", entry)
		}
	}
	sorted := slices.Sorted(slices.Values(allow))
	return slices.Compact(sorted), nil
}

// checkStores refuses stores that no connector should announce.
func checkStores(stores []StoreRow) error {
	const advice = "look at the stores in the connector's configuration"
	if len(stores) > maxStores {
		return invalid("stores-invalid", advice, "%d stores, at most %d", len(stores), maxStores)
	}
	seen := make(map[string]bool, len(stores))
	for _, s := range stores {
		if err := checkName("store", s.Name); err != nil {
			return err
		}
		switch {
		case seen[s.Name]:
			return invalid("stores-invalid", advice, "store %s twice", s.Name)
		case s.Port < 1 || s.Port > 65535:
			return invalid("stores-invalid", advice, "store %s on port %d", s.Name, s.Port)
		case len(s.Aliases) > maxAliases:
			return invalid("stores-invalid", advice, "store %s with %d aliases, at most %d", s.Name, len(s.Aliases), maxAliases)
		}
		for _, alias := range s.Aliases {
			if alias == "" || len(alias) > maxAlias || strings.ContainsFunc(alias, func(r rune) bool { return r <= ' ' || r > '~' }) {
				return invalid("stores-invalid", advice, "store %s with an alias %.80q", s.Name, alias)
			}
		}
		seen[s.Name] = true
	}
	return nil
}

func notFound(what, name, list string) *Error {
	return &Error{kind: ErrNotFound, code: what + "-unknown", message: fmt.Sprintf("there is no %s %.80q", what, name), advice: list}
}

func already(what, name, advice string) *Error {
	return &Error{kind: ErrExists, code: what + "-exists", message: fmt.Sprintf("there is a %s %s already", what, name), advice: advice}
}
