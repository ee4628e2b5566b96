package client

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// Target is a store behind a gateway.
type Target struct {
	Gateway, Store string
	// Host and Port name the store as programs do, STORE.GATEWAY or one of the
	// store's aliases, for the relay to find; then the two above are empty. Port 0
	// is the store's own.
	Host string
	Port int
}

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

// ParseAddress reads what programs dial: GATEWAY/STORE, or HOST:PORT, where the
// host is STORE.GATEWAY or one of a store's aliases, and port 0 stands for the
// store's own. Its error is an [*Error].
func ParseAddress(address string) (Target, error) {
	bad := &Error{
		code: "target-malformed", hop: "config",
		message: fmt.Sprintf("%.300q is not STORE.GATEWAY:PORT", address),
		advice:  "name the store, its gateway and its port, for example erp-sql.corp:1433; port 0 stands for the store's own",
	}
	if strings.Contains(address, "/") {
		return ParseTarget(address)
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return Target{}, bad
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return Target{}, bad
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > maxHost {
		return Target{}, bad
	}
	return Target{Host: host, Port: int(port)}, nil
}

// maxHost is the longest name that is dialled, in bytes (RFC 1035 §2.3.4).
const maxHost = 253

// String is GATEWAY/STORE, or HOST:PORT.
func (t Target) String() string {
	if t.Host != "" {
		return net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	}
	return t.Gateway + "/" + t.Store
}
