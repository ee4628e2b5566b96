package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// RelayIngress says where jobs come in.
type RelayIngress struct {
	// Connect is the HTTP proxy, Socks5 the SOCKS 5 server; where Listen is
	// empty, there is none.
	Connect, Socks5 RelayDoor
	// HTTPS is an HTTP proxy on the relay's TLS port, listen.tls.
	HTTPS bool
	// Ports stand for one store and one job each.
	Ports []RelayPort
}

// RelayDoor is an address at which jobs connect. Whoever can reach it from
// another machine has to come with TLS or from AllowFrom.
type RelayDoor struct {
	Listen Listen
	// TLS has the relay's public certificate.
	TLS bool
	// ClientCA is a PEM file: only clients with a certificate of these
	// authorities get in. Empty: nobody is asked for one.
	ClientCA string
	// AllowFrom are the networks that get in; empty: all.
	AllowFrom []netip.Prefix
}

// RelayPort is a TCP port through which a job dials one store without a token.
type RelayPort struct {
	RelayDoor
	Gateway, Store string
	Job            string
}

// rawIngress mirrors ingress.
type rawIngress struct {
	Connect rawDoor   `mapstructure:"connect" short:"listen" usage:"address of the HTTP proxy for jobs"`
	Socks5  rawDoor   `mapstructure:"socks5" short:"listen" usage:"address of the SOCKS 5 server for jobs"`
	HTTPS   bool      `mapstructure:"https" usage:"an HTTP proxy for jobs on the TLS port, too"`
	Ports   []rawPort `mapstructure:"ports"`
}

type rawDoor struct {
	Listen    string   `mapstructure:"listen"`
	TLS       bool     `mapstructure:"tls"`
	ClientCA  string   `mapstructure:"client_ca"`
	Insecure  bool     `mapstructure:"insecure"`
	AllowFrom []string `mapstructure:"allow_from"`
}

type rawPort struct {
	Listen    string   `mapstructure:"listen"`
	Target    string   `mapstructure:"target"`
	Job       string   `mapstructure:"job"`
	TLS       bool     `mapstructure:"tls"`
	ClientCA  string   `mapstructure:"client_ca"`
	Insecure  bool     `mapstructure:"insecure"`
	AllowFrom []string `mapstructure:"allow_from"`
}

func (raw rawIngress) check(c *checker) RelayIngress {
	in := RelayIngress{
		Connect: raw.Connect.check(c, "ingress.connect", "0.0.0.0:3128"),
		Socks5:  raw.Socks5.check(c, "ingress.socks5", "0.0.0.0:1080"),
		HTTPS:   raw.HTTPS,
	}
	for i, p := range raw.Ports {
		in.Ports = append(in.Ports, p.check(c, fmt.Sprintf("ingress.ports[%d]", i)))
	}
	return in
}

// check checks an ingress that asks for tokens.
func (raw rawDoor) check(c *checker, key, example string) RelayDoor {
	if raw.Listen == "" {
		if raw.TLS || raw.ClientCA != "" || raw.Insecure || raw.AllowFrom != nil {
			c.add(key+".listen", "is missing", fmt.Sprintf("{listen: %q, tls: true}", example))
		}
		return RelayDoor{}
	}
	d := raw.door(c, key, key)
	if d.Listen != "" && !d.Listen.loopback() && !d.TLS && !raw.Insecure {
		c.add(key, "is not on loopback, so job tokens would cross the network unencrypted: it needs tls: true, or insecure: true with allow_from",
			fmt.Sprintf("{listen: %q, tls: true}", raw.Listen))
	}
	return d
}

// door checks what all ingresses have. at is the key of the address.
func (raw rawDoor) door(c *checker, key, at string) RelayDoor {
	d := RelayDoor{Listen: c.listen(at, raw.Listen), TLS: raw.TLS, ClientCA: raw.ClientCA}
	for i, text := range raw.AllowFrom {
		p, ok := network(text)
		if !ok {
			c.add(fmt.Sprintf("%s.allow_from[%d]", key, i), quote(text)+" is no network or address", "allow_from: [10.0.0.0/8]")
			continue
		}
		d.AllowFrom = append(d.AllowFrom, p)
	}
	switch {
	case raw.ClientCA != "" && !raw.TLS:
		c.add(key+".client_ca", "needs tls: true beside it", "tls: true")
	case raw.Insecure && len(raw.AllowFrom) == 0:
		c.add(key+".insecure", "needs allow_from beside it, the networks that get in", "allow_from: [10.0.0.0/8]")
	case raw.AllowFrom != nil && len(raw.AllowFrom) == 0:
		c.add(key+".allow_from", "is an empty list, so nobody would get in", "allow_from: [10.0.0.0/8]")
	}
	return d
}

// network reads a network, or an address as the network of itself.
func network(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Masked() != p {
		return netip.Prefix{}, false
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p, true
}

// check checks an ingress that asks for nothing.
func (raw rawPort) check(c *checker, key string) RelayPort {
	const example = "{listen: \"127.0.0.1:11433\", target: corp/erp-sql, job: nightly-copy}"
	p := RelayPort{RelayDoor: rawDoor{raw.Listen, raw.TLS, raw.ClientCA, raw.Insecure, raw.AllowFrom}.door(c, key, key+".listen")}
	switch {
	case raw.Listen == "":
		c.add(key+".listen", "is missing", example)
	case p.Listen != "" && !p.Listen.loopback() && (!p.TLS || p.ClientCA == "") && !raw.Insecure:
		c.add(key+".listen", "is not on loopback, so whoever reaches it would reach the store: it needs tls: true with client_ca, or insecure: true with allow_from",
			fmt.Sprintf("{listen: %q, tls: true, client_ca: /etc/ebbgate/jobs-ca.pem, ...}", raw.Listen))
	}
	gateway, store, ok := strings.Cut(raw.Target, "/")
	if raw.Target == "" {
		c.add(key+".target", "is missing", example)
	} else if !ok {
		c.add(key+".target", quote(raw.Target)+" is not GATEWAY/STORE", "target: corp/erp-sql")
	} else {
		p.Gateway = c.name(key+".target", gateway, "target: corp/erp-sql")
		p.Store = c.name(key+".target", store, "target: corp/erp-sql")
	}
	if raw.Job == "" {
		c.add(key+".job", "is missing", example)
	} else {
		p.Job = c.name(key+".job", raw.Job, "job: nightly-copy")
	}
	return p
}
