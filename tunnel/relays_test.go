package tunnel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestKnownRelays(t *testing.T) {
	const a = "spiffe://instance.test/relay/a"
	ports := Ports{TLS: 443, QUIC: 443}
	good := RelayInfo{Identity: a, Host: "relay-a.example.com", Ports: ports}
	for name, test := range map[string]struct {
		info RelayInfo
		want bool
	}{
		"a name":               {good, true},
		"an IPv6 address":      {RelayInfo{a, "2001:db8::1", ports}, true},
		"no host":              {RelayInfo{a, "", ports}, false},
		"a host with a path":   {RelayInfo{a, "relay/x", ports}, false},
		"a host with controls": {RelayInfo{a, "relay\nx", ports}, false},
		"a host that is long":  {RelayInfo{a, strings.Repeat("a", maxHost+1), ports}, false},
		"a port in the host":   {RelayInfo{a, "relay:443", ports}, false},
		"no TLS port":          {RelayInfo{a, "relay", Ports{QUIC: 443}}, false},
		"an impossible port":   {RelayInfo{a, "relay", Ports{TLS: 443, HTTP: 65536}}, false},
		"another instance":     {RelayInfo{"spiffe://other.test/relay/a", "relay", ports}, false},
		"no relay":             {RelayInfo{"spiffe://instance.test/tenant/default/job/j", "relay", ports}, false},
		"no identity":          {RelayInfo{"", "relay", ports}, false},
	} {
		if got := len(KnownRelays([]RelayInfo{test.info}, "instance.test")) == 1; got != test.want {
			t.Errorf("%s: taken: %v", name, got)
		}
	}
	if got := KnownRelays([]RelayInfo{good, good}, "instance.test"); !slices.Equal(got, []RelayInfo{good}) {
		t.Errorf("a relay that is named twice: %v", got)
	}
	var many []RelayInfo
	for i := range 2 * maxRelays {
		many = append(many, RelayInfo{fmt.Sprintf("spiffe://instance.test/relay/r%d", i), "relay-" + strconv.Itoa(i), ports})
	}
	if got := KnownRelays(many, "instance.test"); len(got) != maxRelays {
		t.Errorf("%d relays are taken of %d", len(got), len(many))
	}
}
