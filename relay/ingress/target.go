package ingress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Target is the store that a request names, as it was written but for its
// spelling: the host is in lower case, without a dot at its end, an address in
// its canonical form.
type Target struct {
	Host string // <store>.<gateway>, or a store's alias
	Port int    // the store's, or 0
}

// String is host:port.
func (t Target) String() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// maxHost is the longest host name that there is (RFC 1035 §2.3.4).
const maxHost = 253

// ParseTarget takes host:port apart: the authority-form of RFC 9112 §3.2.3, and
// a store's alias. Its errors have a Code.
func ParseTarget(authority string) (Target, error) {
	bad := func(why string) (Target, error) {
		return Target{}, &failure{
			"target-malformed", "relay", fmt.Sprintf("%q is not STORE.GATEWAY:PORT: %s", clip(authority, 200), why),
			"name the store as <store>.<gateway>:<port>, for example erp-sql.corp:1433, or by one of its aliases",
		}
	}
	host, portText, err := net.SplitHostPort(authority)
	if err != nil {
		return bad("it has no port")
	}
	if host, err = canonicalHost(host); err != nil {
		return bad(err.Error())
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return bad("the port is not 0 to 65535")
	}
	return Target{Host: host, Port: int(port)}, nil
}

// canonicalHost is one spelling for all spellings of a host. Names that are not
// ASCII have to come in their ASCII form (RFC 5890 §2.3.2.1), as programs that
// resolve names send them.
func canonicalHost(host string) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case host == "":
		return "", errors.New("it has no host")
	case len(host) > maxHost:
		return "", fmt.Errorf("the host has more than %d bytes", maxHost)
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 0x80:
			return "", errors.New("the host has letters that are not ASCII: write it in its ASCII form (xn--...)")
		case c <= ' ' || c == 0x7f || strings.IndexByte(`/\@?#[]<>"`, c) >= 0:
			return "", errors.New("the host has characters that no host has")
		}
	}
	return host, nil
}
