package loopback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// refusal is what a job must be told about a dial that fails.
type refusal struct {
	status int
	code   string
	hop    string
}

// wantRefused dials a store by CONNECT and checks the answer: status, code, and a text that names the hop.
func (c *company) wantRefused(ctx context.Context, t *testing.T, in rig.Ingress, host string, want refusal) {
	t.Helper()
	conn, err := in.Dial(ctx, host)
	var answer *rig.ConnectError
	if !errors.As(err, &answer) {
		if conn != nil {
			_ = conn.Close()
		}
		t.Errorf("%s: %v, want %+v", host, err, want)
		return
	}
	if answer.Status != want.status || answer.Code != want.code {
		t.Errorf("%s: %d %s (%q), want %+v", host, answer.Status, answer.Code, answer.Body, want)
	}
	if !strings.HasPrefix(answer.Body, want.hop+": ") {
		t.Errorf("%s: %q does not name hop %q", host, answer.Body, want.hop)
	}
	if answer.Status == http.StatusProxyAuthRequired && !strings.HasPrefix(answer.Header.Get("Proxy-Authenticate"), "Basic ") {
		t.Errorf("%s: 407 without a challenge: %v", host, answer.Header)
	}
}

// TestStoreErrors dials stores that cannot be reached, and asks by jobs that must not.
func TestStoreErrors(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	silent := fullBacklog(t)
	c.newConnector(ctx, t, "broken",
		rig.Store{Name: "unresolved", Address: "no-such-host.invalid:1433"},
		rig.Loopback("refusing", rig.FreePort(t)),
		rig.Loopback("silent", silent),
		rig.Store{Name: "selective", Address: c.store.Addr(), AllowSpecial: []string{"loopback"}, Jobs: []string{"somebody-else"}},
		rig.Store{Name: "clients-only", Address: c.store.Addr(), AllowSpecial: []string{"loopback"}, Ingress: []string{"client"}},
	)
	all := c.newJob(ctx, t, "everything", "unresolved", "refusing", "silent", "selective", "clients-only", "never-announced")
	t.Run("reasons", func(t *testing.T) {
		for name, want := range map[string]refusal{
			"unresolved":      {http.StatusBadGateway, "store-unresolved", "store"},
			"refusing":        {http.StatusBadGateway, "store-refused", "store"},
			"silent":          {http.StatusGatewayTimeout, "store-timeout", "store"},
			"selective":       {http.StatusForbidden, "store-not-allowed", "node"},
			"clients-only":    {http.StatusForbidden, "store-not-allowed", "node"},
			"never-announced": {http.StatusNotFound, "store-unknown", "gateway"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.wantRefused(ctx, t, all, c.host(name), want)
			})
		}
	})
	t.Run("jobs", func(t *testing.T) {
		in := c.ingress
		wrong := in
		wrong.Token = in.Token[:len(in.Token)-6] + "AAAAAA"
		malformed, none, other := in, in, in
		malformed.Token, none.Token = "secret", ""
		other.Job = "everything"
		for _, test := range []struct {
			name string
			in   rig.Ingress
			host string
			want refusal
		}{
			{"no token", none, c.host(store), refusal{http.StatusProxyAuthRequired, "token-missing", "relay"}},
			{"no token of ours", malformed, c.host(store), refusal{http.StatusProxyAuthRequired, "token-malformed", "relay"}},
			{"mistyped token", wrong, c.host(store), refusal{http.StatusProxyAuthRequired, "token-malformed", "relay"}},
			{"another job's name", other, c.host(store), refusal{http.StatusProxyAuthRequired, "token-invalid", "relay"}},
			{"store not allowed", in, c.host("refusing"), refusal{http.StatusForbidden, "job-not-allowed", "relay"}},
			{"unknown store, not allowed", in, c.host("no-such"), refusal{http.StatusForbidden, "job-not-allowed", "relay"}},
			{"unknown gateway, not allowed", in, store + ".elsewhere:0", refusal{http.StatusForbidden, "job-not-allowed", "relay"}},
			{"wrong port", in, strings.TrimSuffix(c.host(store), "0") + "1", refusal{http.StatusNotFound, "port-mismatch", "store"}},
			{"no target", in, "nonsense:1433", refusal{http.StatusForbidden, "job-not-allowed", "relay"}},
		} {
			t.Run(test.name, func(t *testing.T) { c.wantRefused(ctx, t, test.in, test.host, test.want) })
		}
	})
	t.Run("revoked job", func(t *testing.T) {
		in := c.newJob(ctx, t, "short-lived", store)
		d, err := (&company{ingress: in, gateway: c.gateway}).begin(ctx, "connect", false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.relay.Admin(ctx, nil, "job", "revoke", "short-lived"); err != nil {
			t.Fatal(err)
		}
		if err := d.interrupted(ctx); err != nil {
			t.Errorf("after the revocation: %v", err)
		}
		c.wantRefused(ctx, t, in, c.host(store), refusal{http.StatusProxyAuthRequired, "token-invalid", "relay"})
	})
	t.Run("node offline", func(t *testing.T) {
		if err := c.connector.Stop(10 * time.Second); err != nil {
			t.Errorf("the connector does not end well: %v", err)
		}
		if _, err := c.relay.Await(ctx, c.gateway, node, func(n rig.Node) bool { return n.Status != "Online" }); err != nil {
			t.Fatal(err)
		}
		c.wantRefused(ctx, t, c.ingress, c.host(store), refusal{http.StatusServiceUnavailable, "no-node-online", "gateway"})
	})
}

// forbidden are spellings of addresses that no connector may dial unless its configuration says so. PORT is a port at
// which somebody listens on every address of this machine, RELAY the relay's address.
var forbidden = []string{
	// loopback
	"127.0.0.1:PORT", "127.0.0.2:PORT", "127.1.2.3:PORT", "127.255.255.254:PORT", "localhost:PORT", "LOCALHOST:PORT",
	"localhost.:PORT", "LocalHost:PORT", "[::1]:PORT", "[0:0:0:0:0:0:0:1]:PORT", "[0000:0000::0001]:PORT",
	// the same inside other addresses
	"[::ffff:127.0.0.1]:PORT", "[::ffff:7f00:1]:PORT", "[0:0:0:0:0:ffff:127.0.0.1]:PORT", "[::127.0.0.1]:PORT",
	"[64:ff9b::127.0.0.1]:PORT", "[64:ff9b::7f00:1]:PORT", "[64:ff9b:1::7f00:1]:PORT", "[2002:7f00:1::]:PORT",
	"[2002:7f00:0001::1]:PORT", "[2001:0:7f00:1::]:PORT",
	// nowhere, which the kernel takes for this machine
	"0.0.0.0:PORT", "[::]:PORT", "[::ffff:0.0.0.0]:PORT", "0.0.0.1:PORT",
	// numbers that C libraries take for addresses
	"127.1:PORT", "127.0.1:PORT", "2130706433:PORT", "0x7f000001:PORT", "0x7f.0.0.1:PORT", "0177.0.0.1:PORT",
	"017700000001:PORT", "127.0.0.01:PORT", "0:PORT",
	// link-local and cloud metadata
	"169.254.169.254:80", "[::ffff:169.254.169.254]:80", "[::ffff:a9fe:a9fe]:80", "[64:ff9b::a9fe:a9fe]:80",
	"2852039166:80", "0xa9fea9fe:80", "169.254.0.1:80", "[fe80::1]:80", "[fe80::1%25lo]:80", "[fd00:ec2::254]:80",
	"[fd00:0ec2:0:0:0:0:0:254]:80", "100.100.100.200:80", "168.63.129.16:80",
	// many machines
	"224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80",
}

// TestAddressPolicy has a connector whose stores are forbidden addresses in every spelling. None may be dialled.
func TestAddressPolicy(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	var reached atomic.Int32
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			_ = conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	var (
		stores []rig.Store
		names  []string
	)
	add := func(s rig.Store) {
		s.Name = fmt.Sprintf("forbidden-%d", len(stores))
		stores, names = append(stores, s), append(names, s.Name)
	}
	rejected := 0
	for _, spelling := range forbidden {
		s := rig.Store{Address: strings.ReplaceAll(spelling, "PORT", port)}
		if c.rejectedByConfiguration(ctx, t, s) {
			rejected++
			continue
		}
		add(s)
	}
	// What is allowed on loopback does not include the relay.
	add(rig.Loopback("", c.relay.TLS))
	t.Logf("%d spellings, of which the configuration rejects %d", len(forbidden)+1, rejected)
	if len(forbidden)+1-rejected < 40 {
		t.Errorf("only %d spellings are left for the connector to judge", len(forbidden)+1-rejected)
	}
	c.newConnector(ctx, t, "guarded", stores...)
	in := c.newJob(ctx, t, "everything", names...)
	for i, s := range stores {
		t.Run(s.Address, func(t *testing.T) {
			conn, err := in.Dial(ctx, c.host(s.Name))
			var answer *rig.ConnectError
			switch {
			case !errors.As(err, &answer):
				if conn != nil {
					_ = conn.Close()
				}
				t.Errorf("%v, want a refusal", err)
			case answer.Code == "address-refused" && answer.Status == http.StatusForbidden:
			case answer.Code == "store-unresolved" && net.ParseIP(host(s.Address)) == nil:
				// Go resolves no numbers that are not addresses: as good as refused.
			default:
				t.Errorf("%d: %v, want address-refused", i, answer)
			}
		})
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("%d connections arrived", n)
	}
}

func host(addr string) string {
	h, _, _ := net.SplitHostPort(addr)
	return h
}

// rejectedByConfiguration tells whether a connector does not even start with the store.
func (c *company) rejectedByConfiguration(ctx context.Context, t *testing.T, s rig.Store) bool {
	t.Helper()
	s.Name = "candidate"
	connector, err := rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{Dir: t.TempDir(), Stores: []rig.Store{s}})
	if err != nil {
		t.Fatal(err)
	}
	// Without a registration it cannot start either, but says so only of a configuration that it has read.
	err = connector.Program.Run(ctx, nil, "connector", "run", "--config", connector.Config)
	var failed *rig.CommandError
	if !errors.As(err, &failed) {
		t.Fatalf("a connector that is not registered: %v", err)
	}
	return failed.Hop == "config"
}
