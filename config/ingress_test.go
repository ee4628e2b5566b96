package config

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestIngress(t *testing.T) {
	nets := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/32")}
	for _, test := range []struct {
		name, text string
		flags      []string
		env        []string
		want       RelayIngress
	}{
		{"one address", "ingress: {connect: 'localhost:1', socks5: '[::1]:2'}", nil, nothing, RelayIngress{Connect: RelayDoor{Listen: "localhost:1"}, Socks5: RelayDoor{Listen: "[::1]:2"}}},
		{
			"TLS", "ingress: {connect: {listen: ':1', tls: true, client_ca: a.pem}, socks5: {listen: '192.0.2.1:2', tls: true}}", nil, nothing,
			RelayIngress{Connect: RelayDoor{Listen: ":1", TLS: true, ClientCA: "a.pem"}, Socks5: RelayDoor{Listen: "192.0.2.1:2", TLS: true}},
		},
		{
			"insecure", "ingress: {connect: {listen: ':1', insecure: true, allow_from: [10.0.0.0/8, 192.0.2.7, '2001:db8::/32']}}", nil, nothing,
			RelayIngress{Connect: RelayDoor{Listen: ":1", AllowFrom: nets}},
		},
		{
			"port", "ingress: {ports: [{listen: ':1', target: a/b, job: c, tls: true, client_ca: a.pem}]}", nil, nothing,
			RelayIngress{Ports: []RelayPort{{RelayDoor: RelayDoor{Listen: ":1", TLS: true, ClientCA: "a.pem"}, Gateway: "a", Store: "b", Job: "c"}}},
		},
		{"flag", "ingress: {https: false}", []string{"--ingress-https"}, nothing, RelayIngress{HTTPS: true}},
		{"flag with value", "ingress: {https: true}", []string{"--ingress-https=false"}, nothing, RelayIngress{}},
		{"variable", "ingress: {connect: ''}", nil, []string{"EBBGATE_RELAYD_INGRESS_HTTPS=true", "EBBGATE_RELAYD_INGRESS_CONNECT=127.0.0.1:1"}, RelayIngress{HTTPS: true, Connect: RelayDoor{Listen: "127.0.0.1:1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			RelayFlags(fs)
			if err := fs.Parse(test.flags); err != nil {
				t.Fatal(err)
			}
			got, err := LoadRelay(Options{File: write(t, "relay.yaml", "hostname: a\n"+test.text+"\n"), Flags: fs, Environment: test.env})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(test.want, got.Ingress, cmp.Comparer(samePrefix)); d != "" {
				t.Error(d)
			}
		})
	}
}
