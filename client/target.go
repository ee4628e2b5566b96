package client

import (
	"fmt"
	"regexp"
	"strings"
)

// Target is a store behind a gateway.
type Target struct{ Gateway, Store string }

var namePattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// ParseTarget reads GATEWAY/STORE. Its error is an [*Error].
func ParseTarget(s string) (Target, error) {
	gateway, store, ok := strings.Cut(s, "/")
	if !ok || !namePattern.MatchString(gateway) || !namePattern.MatchString(store) {
		return Target{}, &Error{
			code: "target-malformed", hop: "config",
			message: fmt.Sprintf("%.140q is not GATEWAY/STORE", s),
			advice:  "name the gateway and the store in small letters, digits and hyphens, for example corp/erp-sql",
		}
	}
	return Target{Gateway: gateway, Store: store}, nil
}

// String is GATEWAY/STORE.
func (t Target) String() string { return t.Gateway + "/" + t.Store }
