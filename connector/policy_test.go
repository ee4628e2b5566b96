package connector

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// names is a resolver that answers from a table, as some systems' resolvers
// would.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, _, host string) (addrs []netip.Addr, err error) {
	list, ok := n[host]
	if !ok {
		return nil, errors.New("asked for " + host)
	}
	for _, s := range list {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs, nil
}

// resolved is what the table of TestPolicySpellings has in its DNS.
var resolved = names{
	"localhost":              {"127.0.0.1", "::1"},
	"localhost.":             {"127.0.0.1"},
	"LOCALHOST":              {"127.0.0.1"},
	"ip6-localhost":          {"::1"},
	"sneaky.corp.example":    {"127.0.0.1"},
	"mapped.corp.example":    {"::ffff:127.0.0.1"},
	"metadata.google":        {"169.254.169.254"},
	"relay.example.com":      {"203.0.113.9"}, // another one than is known
	"RELAY.example.com.":     {"203.0.113.9"},
	"zero.corp.example":      {"0.0.0.0"},
	"zoned.corp.example":     {"fe80::1%eth0"},
	"nat64.corp.example":     {"64:ff9b::7f00:1"},
	"sql01.corp.example":     {"10.0.0.5"},
	"dns64.corp.example":     {"64:ff9b::a00:5"},
	"mixed.corp.example":     {"127.0.0.1", "10.0.0.5", "169.254.169.254"},
	"alias-of-proxy.example": {"10.8.8.8"},
	"127.0.0.1.nip.example":  {"127.0.0.1"},
}

// dialOnly is a dialer that reports the addresses that it would connect to.
func dialOnly(r Resolver, g *guards) (*dialer, *[]netip.AddrPort) {
	var dialled []netip.AddrPort
	return &dialer{
		resolver: r, guards: g,
		connect: func(_ context.Context, _ config.Store, to netip.AddrPort) (bundle.Socket, error) {
			dialled = append(dialled, to)
			return fakeSocket{}, nil
		},
	}, &dialled
}

type fakeSocket struct{ bundle.Socket }

func (fakeSocket) Close() error        { return nil }
func (fakeSocket) SetLinger(int) error { return nil }

func testGuards() *guards {
	g := &guards{}
	g.add(config.SpecialRelay, "Relay.Example.com.", 443, netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7"))
	g.add(config.SpecialProxy, "10.8.8.8", 8080)
	return g
}

func TestPolicySpellings(t *testing.T) {
	const (
		loopback    = config.SpecialLoopback
		linkLocal   = config.SpecialLinkLocal
		meta        = config.SpecialMetadata
		relay       = config.SpecialRelay
		proxy       = config.SpecialProxy
		unspecified = specialUnspecified
		multicast   = specialMulticast
		broadcast   = specialBroadcast
	)
	for _, tc := range []struct {
		host string
		port int
		want config.Special // of the refusal
	}{
		// loopback
		{"127.0.0.1", 5432, loopback},
		{"127.0.0.1.", 5432, loopback},
		{"127.255.255.254", 5432, loopback},
		{"127.1", 5432, loopback},
		{"127.0.1", 5432, loopback},
		{"2130706433", 5432, loopback},
		{"0x7f000001", 5432, loopback},
		{"0X7F000001", 5432, loopback},
		{"0x7f.1", 5432, loopback},
		{"0x7f.0x0.0x0.0x1", 5432, loopback},
		{"0x7f.0.0.01", 5432, loopback},
		{"017700000001", 5432, loopback},
		{"0177.0.0.1", 5432, loopback},
		{"0177.1", 5432, loopback},
		{"000000177.0.0.1", 5432, loopback},
		{"127.0x1", 5432, loopback},
		{"::1", 5432, loopback},
		{"[::1]", 5432, loopback},
		{"0:0:0:0:0:0:0:1", 5432, loopback},
		{"0000::0001", 5432, loopback},
		{"::1%lo", 5432, loopback},
		{"::ffff:127.0.0.1", 5432, loopback},
		{"[::ffff:127.0.0.1]", 5432, loopback},
		{"::FFFF:7F00:1", 5432, loopback},
		{"::127.0.0.1", 5432, loopback},
		{"::ffff:0:127.0.0.1", 5432, loopback},
		{"64:ff9b::127.0.0.1", 5432, loopback},
		{"64:ff9b::7f00:1", 5432, loopback},
		{"64:ff9b:1:7f00:0:100::", 5432, loopback},
		{"64:ff9b:1::7f00:1", 5432, loopback},
		{"2002:7f00:1::", 5432, loopback},
		{"2001:0:cb00:7109::80ff:fffe", 5432, loopback}, // Teredo hides 127.0.0.1 inverted
		{"2001:0:7f00:1::1", 5432, loopback},            // as its server
		{"2001:db8::5efe:127.0.0.1", 5432, loopback},
		{"2001:db8::200:5efe:7f00:1", 5432, loopback},
		{"localhost", 5432, loopback},
		{"localhost.", 5432, loopback},
		{"LOCALHOST", 5432, loopback},
		{"ip6-localhost", 5432, loopback},
		{"sneaky.corp.example", 5432, loopback},
		{"mapped.corp.example", 5432, loopback},
		{"nat64.corp.example", 5432, loopback},
		{"127.0.0.1.nip.example", 5432, loopback},
		// link-local
		{"169.254.1.1", 80, linkLocal},
		{"0xa9fe0101", 80, linkLocal},
		{"169.254.257", 80, linkLocal},
		{"fe80::1", 80, linkLocal},
		{"fe80::1%eth0", 80, linkLocal},
		{"[fe80::1%25eth0]", 80, linkLocal},
		{"febf::1", 80, linkLocal},
		{"zoned.corp.example", 80, linkLocal},
		{"2002:a9fe:101::1", 80, linkLocal},
		// metadata
		{"169.254.169.254", 80, meta},
		{"2852039166", 80, meta},
		{"0xa9fea9fe", 80, meta},
		{"0251.0376.0251.0376", 80, meta},
		{"169.254.43518", 80, meta},
		{"::ffff:169.254.169.254", 80, meta},
		{"[::ffff:a9fe:a9fe]", 80, meta},
		{"64:ff9b::a9fe:a9fe", 80, meta},
		{"2002:a9fe:a9fe::1", 80, meta},
		{"fd00:ec2::254", 80, meta},
		{"fd00:0ec2:0:0:0:0:0:254", 80, meta},
		{"fd00:ec2::254%eth0", 80, meta},
		{"100.100.100.200", 80, meta},
		{"100.100.25800", 80, meta},
		{"168.63.129.16", 80, meta},
		{"0xa83f8110", 80, meta},
		{"metadata.google", 80, meta},
		// nothing that could be a store
		{"0.0.0.0", 5432, unspecified},
		{"0", 5432, unspecified},
		{"0x0", 5432, unspecified},
		{"0.1.2.3", 5432, unspecified},
		{"::", 5432, unspecified},
		{"[::]", 5432, unspecified},
		{"::ffff:0.0.0.0", 5432, unspecified},
		{"64:ff9b::", 5432, unspecified},
		{"zero.corp.example", 5432, unspecified},
		{"224.0.0.1", 5432, multicast},
		{"239.255.255.250", 5432, multicast},
		{"ff02::1", 5432, multicast},
		{"ff02::1%eth0", 5432, multicast},
		{"255.255.255.255", 5432, broadcast},
		{"4294967295", 5432, broadcast},
		{"::ffff:255.255.255.255", 5432, broadcast},
		// the relay and the proxy, as address and port
		{"203.0.113.7", 443, relay},
		{"0xcb007107", 443, relay},
		{"::ffff:203.0.113.7", 443, relay},
		{"64:ff9b::cb00:7107", 443, relay},
		{"2001:db8::7", 443, relay},
		{"relay.example.com", 443, relay},
		{"RELAY.example.com.", 443, relay},
		{"10.8.8.8", 8080, proxy},
		{"::ffff:10.8.8.8", 8080, proxy},
		{"012.8.8.8", 8080, proxy},
		{"alias-of-proxy.example", 8080, proxy},
	} {
		t.Run(tc.host, func(t *testing.T) {
			d, dialled := dialOnly(resolved, testGuards())
			st := config.Store{Name: "s", Host: tc.host, Port: tc.port}
			_, err := d.dial(t.Context(), st)
			var e *Error
			if !errors.As(err, &e) || e.Code() != "address-refused" || e.Hop() != "store" {
				t.Fatalf("dial: %v, want address-refused at the store", err)
			}
			if !strings.Contains(e.Error(), what[tc.want]) {
				t.Errorf("refused as %q, want %q", e, what[tc.want])
			}
			if len(*dialled) != 0 {
				t.Errorf("dialled %v", *dialled)
			}
			advice := "allow_special: [" + string(tc.want) + "]"
			if allowable(tc.want) != strings.Contains(e.Advice(), advice) {
				t.Errorf("advice is %q", e.Advice())
			}

			// Every other class does not help.
			for _, s := range []config.Special{loopback, linkLocal, meta, relay, proxy} {
				if s != tc.want {
					st.AllowSpecial = append(st.AllowSpecial, s)
				}
			}
			if _, err := d.dial(t.Context(), st); !errors.As(err, &e) || e.Code() != "address-refused" {
				t.Errorf("with the other classes allowed: %v, dialled %v", err, *dialled)
			}
			*dialled = nil
			st.AllowSpecial = []config.Special{loopback, linkLocal, meta, relay, proxy, unspecified}
			if _, err := d.dial(t.Context(), st); allowable(tc.want) && (err != nil || len(*dialled) != 1) {
				t.Errorf("with its class allowed: %v, dialled %v", err, *dialled)
			}
		})
	}
}

func TestPolicyAllows(t *testing.T) {
	for _, tc := range []struct {
		host string
		port int
		want string
	}{
		{"10.0.0.5", 1433, "10.0.0.5:1433"},
		{"192.168.1.1", 1433, "192.168.1.1:1433"},
		{"172.16.0.1", 1433, "172.16.0.1:1433"},
		{"100.64.0.1", 1433, "100.64.0.1:1433"},
		{"8.8.8.8", 53, "8.8.8.8:53"},
		{"128.0.0.1", 1433, "128.0.0.1:1433"},
		{"126.255.255.255", 1433, "126.255.255.255:1433"},
		{"169.253.1.1", 1433, "169.253.1.1:1433"},
		{"0x0a.5", 1433, "10.0.0.5:1433"},
		{"::ffff:10.0.0.5", 1433, "10.0.0.5:1433"},
		{"fd12::5", 1433, "[fd12::5]:1433"},
		{"fd00:ec2::255", 80, "[fd00:ec2::255]:80"},
		{"64:ff9b::10.0.0.5", 1433, "[64:ff9b::a00:5]:1433"},
		{"64:ff9b:1::10.0.0.5", 1433, "[64:ff9b:1::a00:5]:1433"},
		{"sql01.corp.example", 1433, "10.0.0.5:1433"},
		{"dns64.corp.example", 1433, "[64:ff9b::a00:5]:1433"},
		{"mixed.corp.example", 1433, "10.0.0.5:1433"}, // what is refused is skipped
		// The relay's and the proxy's machines on other ports.
		{"203.0.113.7", 1433, "203.0.113.7:1433"},
		{"10.8.8.8", 1433, "10.8.8.8:1433"},
	} {
		t.Run(tc.host, func(t *testing.T) {
			d, dialled := dialOnly(resolved, testGuards())
			_, err := d.dial(t.Context(), config.Store{Name: "s", Host: tc.host, Port: tc.port})
			if err != nil {
				t.Fatal(err)
			}
			if want := []netip.AddrPort{netip.MustParseAddrPort(tc.want)}; !slices.Equal(*dialled, want) {
				t.Errorf("dialled %v, want %v", *dialled, want)
			}
		})
	}
}

func TestLiteral(t *testing.T) {
	for _, tc := range []struct{ host, want string }{
		{"1.2.3.4", "1.2.3.4"},
		{"1.2.3", "1.2.0.3"},
		{"1.2", "1.0.0.2"},
		{"16909060", "1.2.3.4"},
		{"1.2.772", "1.2.3.4"},
		{"1.131844", "1.2.3.4"},
		{"010.010.010.010", "8.8.8.8"},
		{"0xA.0xb.0xC.0xd", "10.11.12.13"},
		{"[fd00::1]", "fd00::1"},
		// names
		{"", ""},
		{".", ""},
		{"1.2.3.4.5", ""},
		{"1.2.3.256", ""},
		{"256.1.1.1", ""},
		{"1..2", ""},
		{"0x", ""},
		{"08.1.1.1", ""},
		{"+1.2.3.4", ""},
		{"0x+1.2.3.4", ""},
		{"4294967296", ""},
		{"1_0.1.1.1", ""},
		{"cafe", ""},
		{"1e3", ""},
		{"sql01", ""},
	} {
		got, ok := literal(tc.host)
		if s := map[bool]string{true: got.String()}[ok]; s != tc.want {
			t.Errorf("literal(%q) = %q, want %q", tc.host, s, tc.want)
		}
	}
}

func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "fe80::1%eth0", "0177.1."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		a, ok := literal(host)
		if b, err := netip.ParseAddr(host); err == nil && (!ok || a != b) {
			t.Fatalf("literal(%q) = %v, %v, netip says %v", host, a, ok, b)
		}
		if ok {
			for _, form := range forms(a) {
				if form.Zone() != "" || form.Is4In6() {
					t.Fatalf("forms(%v) has %v", a, form)
				}
			}
		}
	})
}
