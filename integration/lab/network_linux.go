package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// The lab's addresses. They are the same in every lab: no two are connected.
const (
	proxyInside  = "10.77.1.1"
	corpAddr     = "10.77.1.2"
	dcAddr       = "10.77.1.3"
	proxyOutside = "10.77.2.1"
	cloudAddr    = "10.77.2.2"

	// RelayName resolves to the cloud's address on cloud and proxy, and on corp after RevealRelay.
	RelayName = "relay.example.test"
	// ProxyName is the proxies' host name, everywhere but in the cloud.
	ProxyName = "proxy.corp.test"
)

var (
	hostsInside = fmt.Sprintf("127.0.0.1 localhost\n%s %s proxy\n%s dc1.corp.test dc1\n", proxyInside, ProxyName, dcAddr)
	hostsRelay  = fmt.Sprintf("%s %s\n", cloudAddr, RelayName)
	hostsCorp   = fmt.Sprintf("%s corp.corp.test corp sql01.corp.test files.corp.test\n", corpAddr)
)

const resolvInside = "search corp.test\nnameserver " + dcAddr + "\noptions timeout:1 attempts:1\n"

const krb5 = `[libdefaults]
  default_realm = CORP.TEST
  dns_lookup_realm = false
  dns_lookup_kdc = false
  rdns = false
  dns_canonicalize_hostname = false
  udp_preference_limit = 0
[realms]
  CORP.TEST = {
    kdc = ` + dcAddr + `
    admin_server = ` + dcAddr + `
  }
[domain_realm]
  .corp.test = CORP.TEST
  corp.test = CORP.TEST
`

// firewall lets nothing through but answers. TCP is refused, the rest vanishes.
const firewall = `table inet fw {
  set tcp_allowed { type inet_service; }
  set udp_allowed { type inet_service; }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" oifname "lan" accept
    iifname "lan" oifname "wan" tcp dport @tcp_allowed counter accept
    iifname "lan" oifname "wan" udp dport @udp_allowed counter accept
    iifname "lan" oifname "wan" meta l4proto tcp counter reject with tcp reset
    iifname "lan" oifname "wan" counter drop
  }
}
`

// hosts makes the four hosts.
func (l *Lab) hosts() error {
	samba := map[string]string{
		"/etc/samba":       "etc/samba",
		"/var/lib/samba":   "var/lib/samba",
		"/var/cache/samba": "var/cache/samba",
		"/var/log/samba":   "var/log/samba",
		"/run/samba":       "run/samba",
	}
	for _, h := range []struct {
		host   **Host
		name   string
		addr   string
		hosts  string
		resolv string
		samba  bool
	}{
		{&l.Corp, "corp", corpAddr, hostsInside + hostsCorp, resolvInside, false},
		{&l.DC, "dc", dcAddr, hostsInside + hostsCorp, resolvInside, true},
		{&l.Proxy, "proxy", proxyInside, hostsInside + hostsCorp + hostsRelay, resolvInside, true},
		{&l.Cloud, "cloud", cloudAddr, "127.0.0.1 localhost\n" + hostsRelay, "# none\n", false},
	} {
		mounts := map[string]string{"/etc/hosts": "etc/hosts.conf", "/etc/resolv.conf": "etc/resolv.conf"}
		if h.samba {
			for at, what := range samba {
				mounts[at] = what
			}
		}
		host, err := NewHost(l.dir, h.name, mounts)
		if err != nil {
			return err
		}
		host.addr = h.addr
		*h.host = host
		for file, content := range map[string]string{
			"etc/hosts.conf": h.hosts, "etc/resolv.conf": h.resolv, "etc/krb5.conf": krb5,
		} {
			if err := host.write(file, content); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect joins the hosts by cables, a bridge and a firewall.
func (l *Lab) connect(ctx context.Context) error {
	cable := func(name string, from *Host) string { // the host's end is called eth0
		return fmt.Sprintf("link add %s type veth peer name eth0 netns /proc/%d/fd/%d\n", name, os.Getpid(), from.net.Fd())
	}
	router := cable("p-corp", l.Corp) + cable("p-dc", l.DC) + cable("wan", l.Cloud) + `link add lan type bridge
link set p-corp master lan up
link set p-dc master lan up
addr add ` + proxyInside + `/24 dev lan
link set lan up
addr add ` + proxyOutside + `/24 dev wan
link set wan up
`
	ends := func(addr string, rest ...string) string {
		return "addr add " + addr + "/24 dev eth0\nlink set eth0 up\n" + strings.Join(rest, "\n") + "\n"
	}
	for _, step := range []struct {
		host  *Host
		batch string
	}{
		{l.Proxy, router},
		// A default route, so that a program that ignores the proxy meets the firewall.
		{l.Corp, ends(corpAddr, "route add default via "+proxyInside)},
		{l.DC, ends(dcAddr)},
		{l.Cloud, ends(cloudAddr, "route add 10.77.1.0/24 via "+proxyOutside)},
	} {
		if _, err := step.host.Run(ctx, step.batch, "ip", "-batch", "-"); err != nil {
			return err
		}
	}
	var err error
	l.Proxy.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	_, err = l.Proxy.Run(ctx, firewall, "nft", "-f", "-")
	return err
}

// AllowTCP opens the firewall for TCP connections from corp to a port in the cloud; deny closes it again for new
// ones.
func (l *Lab) AllowTCP(ctx context.Context, port int) (deny func(context.Context) error, err error) {
	return l.allow(ctx, "tcp_allowed", port)
}

// AllowUDP does for UDP what AllowTCP does for TCP.
func (l *Lab) AllowUDP(ctx context.Context, port int) (deny func(context.Context) error, err error) {
	return l.allow(ctx, "udp_allowed", port)
}

func (l *Lab) allow(ctx context.Context, set string, port int) (func(context.Context) error, error) {
	change := func(ctx context.Context, verb string) error {
		_, err := l.Proxy.Run(ctx, fmt.Sprintf("%s element inet fw %s { %d }\n", verb, set, port), "nft", "-f", "-")
		return err
	}
	return func(ctx context.Context) error { return change(ctx, "delete") }, change(ctx, "add")
}

// RevealRelay lets corp resolve the relay's name, as companies with an open DNS do; hide undoes it.
func (l *Lab) RevealRelay() (hide func() error, err error) {
	file := "etc/hosts.conf"
	return func() error { return l.Corp.write(file, hostsInside+hostsCorp) },
		l.Corp.write(file, hostsInside+hostsCorp+hostsRelay)
}
