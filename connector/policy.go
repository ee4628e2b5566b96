package connector

import (
	"net/netip"
	"slices"

	"github.com/ebbgate/ebbgate/config"
)

// Classes that no store can be allowed: they name no single machine.
const (
	specialUnspecified config.Special = "unspecified"
	specialMulticast   config.Special = "multicast"
	specialBroadcast   config.Special = "broadcast"
)

// what says what an address of a class is, for people.
var what = map[config.Special]string{
	config.SpecialLoopback:  "this node itself",
	config.SpecialLinkLocal: "a link-local address",
	config.SpecialMetadata:  "a cloud's metadata service",
	config.SpecialRelay:     "the relay",
	config.SpecialProxy:     "the proxy",
	specialUnspecified:      "no machine's address",
	specialMulticast:        "a multicast address",
	specialBroadcast:        "the broadcast address",
}

// allowable tells whether a store's allow_special may list the class.
func allowable(s config.Special) bool {
	switch s {
	case config.SpecialLoopback, config.SpecialLinkLocal, config.SpecialMetadata, config.SpecialRelay, config.SpecialProxy:
		return true
	}
	return false
}

// metadata are the addresses at which clouds hand out credentials to whoever
// can reach them from a machine.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("169.254.169.254"): true, // AWS, Azure, Google, OpenStack, ...
	netip.MustParseAddr("169.254.170.2"):   true, // AWS ECS tasks
	netip.MustParseAddr("169.254.170.23"):  true, // AWS EKS pods
	netip.MustParseAddr("169.254.42.42"):   true, // Scaleway
	netip.MustParseAddr("169.254.0.23"):    true, // Tencent
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba
	netip.MustParseAddr("168.63.129.16"):   true, // Azure's wire server
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle
	netip.MustParseAddr("fd00:ec2::254"):   true, // AWS
	netip.MustParseAddr("fd00:ec2::23"):    true, // AWS EKS pods
	netip.MustParseAddr("fd20:ce::254"):    true, // Google
	netip.MustParseAddr("fd00:42::42"):     true, // Scaleway
	netip.MustParseAddr("fe80::a9fe:a9fe"): true, // OpenStack
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8") // RFC 1122 §3.2.1.3: Linux dials 0.0.0.0 as loopback
	broadcast   = netip.MustParseAddr("255.255.255.255")
)

// classify tells the class of an address that has no other form inside.
// Metadata comes before link-local: who allows the one did not ask for the
// other.
func classify(a netip.Addr) (config.Special, bool) {
	switch {
	case metadata[a]:
		return config.SpecialMetadata, true
	case a.IsLoopback():
		return config.SpecialLoopback, true
	case a.IsLinkLocalUnicast():
		return config.SpecialLinkLocal, true
	case a.IsUnspecified(), thisNetwork.Contains(a):
		return specialUnspecified, true
	case a.IsMulticast():
		return specialMulticast, true
	case a == broadcast:
		return specialBroadcast, true
	}
	return "", false
}

// Prefixes of IPv6 addresses that a translator or a tunnel on the way turns
// into an IPv4 address.
var (
	mapped      = netip.MustParsePrefix("::ffff:0:0/96")   // RFC 4291 §2.5.5.2
	compatible  = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1
	translated  = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 7915 §1, IPv4-translated
	nat64       = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 §2.1
	localNAT64  = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour   = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo      = netip.MustParsePrefix("2001::/32")       // RFC 4380
	isatapMarks = [][4]byte{{0, 0, 0x5e, 0xfe}, {2, 0, 0x5e, 0xfe}}
)

// forms gives every address that dialling a may reach: a itself, without its
// zone, and the IPv4 addresses that it carries.
func forms(a netip.Addr) []netip.Addr {
	a = a.WithZone("")
	if a.Is4() {
		return []netip.Addr{a}
	}
	b := a.As16()
	if mapped.Contains(netip.AddrFrom16(b)) || a.Is4In6() {
		return []netip.Addr{a.Unmap()}
	}
	list := []netip.Addr{a}
	v4 := func(i, j, k, l int) { list = append(list, netip.AddrFrom4([4]byte{b[i], b[j], b[k], b[l]})) }
	switch {
	case a.IsUnspecified(), a.IsLoopback():
	case compatible.Contains(a), translated.Contains(a), nat64.Contains(a):
		v4(12, 13, 14, 15)
	case localNAT64.Contains(a):
		// RFC 6052 §2.2: where the four bytes are depends on the length of the
		// translator's prefix, which nobody tells.
		v4(6, 7, 9, 10)   // /48
		v4(7, 9, 10, 11)  // /56
		v4(9, 10, 11, 12) // /64
		v4(12, 13, 14, 15)
		list = slices.DeleteFunc(list, thisNetwork.Contains) // of the other lengths
	case sixToFour.Contains(a):
		v4(2, 3, 4, 5)
	case teredo.Contains(a):
		v4(4, 5, 6, 7) // the server
		list = append(list, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	if slices.Contains(isatapMarks, [4]byte(b[8:12])) { // RFC 5214 §6.1
		v4(12, 13, 14, 15)
	}
	return list
}

// refusal is why the policy does not dial an address.
type refusal struct {
	addr    netip.Addr
	special config.Special
}

// check tells whether a store may be dialled at an address. g are the relay and
// the proxy, which are refused as address and port together.
func check(st config.Store, g *guards, to netip.AddrPort) (refusal, bool) {
	for _, form := range forms(to.Addr()) {
		if s, ok := classify(form); ok && !slices.Contains(st.AllowSpecial, s) {
			return refusal{to.Addr(), s}, false
		}
		for _, s := range g.at(netip.AddrPortFrom(form, to.Port())) {
			if !slices.Contains(st.AllowSpecial, s) {
				return refusal{to.Addr(), s}, false
			}
		}
	}
	return refusal{}, true
}
