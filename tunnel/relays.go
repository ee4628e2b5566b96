package tunnel

import (
	"net"
	"strings"

	"github.com/ebbgate/ebbgate/certs"
)

const (
	maxRelays   = 16
	maxIdentity = 512 // bytes
	maxHost     = 253 // bytes
)

// KnownRelays gives those of a relay's list that make sense: of the same
// instance, named once, with a host and ports. What a relay says stays bounded.
func KnownRelays(said []RelayInfo, domain string) (list []RelayInfo) {
	seen := make(map[string]bool)
	for _, info := range said {
		if len(list) == maxRelays {
			break
		}
		if info.valid(domain) && !seen[info.Identity] {
			seen[info.Identity] = true
			list = append(list, info)
		}
	}
	return list
}

func (i RelayInfo) valid(domain string) bool {
	if len(i.Identity) > maxIdentity || !validHost(i.Host) || !i.Ports.valid() {
		return false
	}
	id, err := certs.ParseIdentity(i.Identity)
	return err == nil && id.Role == certs.RoleRelay && id.TrustDomain == domain
}

func validHost(host string) bool {
	if host == "" || len(host) > maxHost {
		return false
	}
	if strings.Contains(host, ":") {
		return net.ParseIP(host) != nil
	}
	return !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/,@[]", r) })
}

func (p Ports) valid() bool {
	for _, port := range []int{p.TLS, p.QUIC, p.HTTP} {
		if port < 0 || port > 65535 {
			return false
		}
	}
	return p.TLS != 0
}

// Endpoint is where the relay is.
func (i RelayInfo) Endpoint() Endpoint {
	return Endpoint{Host: i.Host, TLSPort: i.Ports.TLS, QUICPort: i.Ports.QUIC, HTTPPort: i.Ports.HTTP}
}
