package proxycfg

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// rule is one entry of Settings.Bypass. Exactly one field is set.
type rule struct {
	prefix netip.Prefix
	glob   []string // what is between the asterisks of a lower-case name
}

func parseBypass(list []string) ([]rule, error) {
	rules := make([]rule, 0, len(list))
	for i, text := range list {
		r, err := parseRule(strings.TrimSpace(text))
		if err != nil {
			return nil, errConfig(fmt.Sprintf("proxy.bypass[%d]", i), "is "+quote(text)+": "+err.Error(),
				`write a host name, a glob, an address or a prefix: ["files.corp.example", "*.corp.example", 10.1.2.3, 10.0.0.0/8]`)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func parseRule(text string) (rule, error) {
	if text == "" {
		return rule{}, errors.New("empty")
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		a = a.Unmap().WithZone("")
		return rule{prefix: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return rule{}, errors.New("neither a prefix nor a name")
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return rule{prefix: p.Masked()}, nil
	}
	if strings.HasPrefix(text, ".") {
		return rule{}, fmt.Errorf("a domain's names are written *%s", quotable(text))
	}
	// The asterisk is not part of a name, so check the name with a letter for it.
	if _, err := canonicalHost(strings.ReplaceAll(text, "*", "x")); err != nil {
		return rule{}, errors.New("not a host name (a port cannot be given)")
	}
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	if ascii, err := idna.Lookup.ToASCII(name); err == nil && !strings.Contains(name, "*") {
		name = ascii
	}
	return rule{glob: strings.Split(name, "*")}, nil
}

// bypassed says whether a rule fits a host, which is canonical.
func bypassed(rules []rule, host string) bool {
	addr, err := netip.ParseAddr(host)
	isAddr := err == nil
	addr = addr.Unmap().WithZone("")
	for _, r := range rules {
		if r.glob == nil && isAddr && r.prefix.Contains(addr) {
			return true
		}
		if r.glob != nil && !isAddr && globMatch(r.glob, host) {
			return true
		}
	}
	return false
}

// globMatch matches s against parts joined by asterisks, each of which stands
// for any number of characters. It takes time linear in s for each part.
func globMatch(parts []string, s string) bool {
	if len(parts) == 1 {
		return s == parts[0]
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// canonicalHost gives a host name in lower-case ASCII without a final dot, or an
// address in its shortest spelling. What could not stand in a request line is an
// error.
func canonicalHost(host string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		if a.Zone() != "" && !isToken(a.Zone()) {
			return "", errors.New("not an address")
		}
		return a.String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for i := range len(host) {
		if host[i] >= 0x80 {
			ascii, err := idna.Lookup.ToASCII(host)
			if err != nil {
				return "", errors.New("not a host name")
			}
			host = ascii
			break
		}
	}
	if host == "" || len(host) > 253 {
		return "", errors.New("not a host name")
	}
	for _, c := range []byte(host) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		default:
			return "", errors.New("not a host name")
		}
	}
	return host, nil
}

// withoutZone strips from an address what has a meaning on this machine only.
func withoutZone(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.WithZone("").String()
	}
	return host
}
