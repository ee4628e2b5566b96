package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func reference(name string) string { return filepath.Join("..", "docs", "reference", name) }

func samePrefix(a, b netip.Prefix) bool { return a == b }

func TestReferenceRelay(t *testing.T) {
	got, err := LoadRelay(Options{File: reference("relay.yaml"), Environment: nothing})
	if err != nil {
		t.Fatal(err)
	}
	want := &Relay{
		Hostname: "relay.example.com",
		Listen:   RelayListen{TLS: ":443", QUIC: ":443", HTTP: ":80"},
		Ingress: RelayIngress{
			Connect: RelayDoor{Listen: "127.0.0.1:3128"}, Socks5: RelayDoor{Listen: "127.0.0.1:1080"},
			Ports: []RelayPort{{
				RelayDoor: RelayDoor{
					Listen: "127.0.0.1:11433", TLS: true, ClientCA: "/etc/ebbgate/jobs-ca.pem",
					AllowFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
				},
				Gateway: "corp", Store: "erp-sql", Job: "nightly-copy",
			}},
		},
		State:       RelayState{Dir: "/var/lib/ebbgate", KeyFile: filepath.Join("/var/lib/ebbgate", "state.key")},
		Metrics:     "127.0.0.1:9464",
		Log:         Log{Format: LogAuto},
		ResumeGrace: DefaultResumeGrace,
		Activity:    RelayActivity{Keep: DefaultKeep},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(samePrefix)); d != "" {
		t.Error(d)
	}
	everyKey(t, "relay.yaml", rawRelay{})
}

func TestReferenceConnector(t *testing.T) {
	got, err := LoadConnector(Options{File: reference("connector.yaml"), Environment: nothing})
	if err != nil {
		t.Fatal(err)
	}
	both := []IngressKind{IngressRelay, IngressClient}
	want := &Connector{
		Relays:   []Endpoint{{Host: "relay.example.com"}},
		StateDir: "/var/lib/ebbgate-connector",
		Proxy: Proxy{
			Mode: ProxyCustom, URL: "http://proxy.corp.example:8080",
			Username: `CORP\svc-ebbgate`, PasswordFile: "/etc/ebbgate/proxy-password",
			Auth: []ProxyAuth{ProxyNTLM, ProxyBasic}, Bypass: []string{"*.corp.example", "10.0.0.0/8"},
		},
		Log: Log{Format: LogAuto},
		Stores: []Store{
			{Name: "erp-sql", Host: "sql01.corp.example", Port: 1433, Ingress: both},
			{
				Name: "lab", Host: "127.0.0.1", Port: 5432,
				Aliases: []string{"db.lab:5432", "pg01.corp.example:5432"}, AllowSpecial: []Special{SpecialLoopback}, Jobs: []string{"nightly-copy"}, Ingress: both,
			},
		},
		ResumeGrace: DefaultResumeGrace,
		Lanes:       Lanes{Max: 16, Total: 64},
		Metrics:     "127.0.0.1:9465",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	everyKey(t, "connector.yaml", rawConnector{})
}

// everyKey checks that the reference has every key of the raw struct; that it
// has no other is what strict decoding is for.
func everyKey(t *testing.T, name string, raw any) {
	t.Helper()
	text, err := readFile(reference(name))
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, typ reflect.Type, nodes []*yaml.Node)
	walk = func(prefix string, typ reflect.Type, nodes []*yaml.Node) {
		for _, f := range fieldsOf(typ) {
			if f.hidden {
				continue
			}
			values := valuesOf(nodes, f.name)
			if len(values) == 0 {
				t.Errorf("docs/reference/%s does not show %s%s", name, prefix, f.name)
			}
			switch {
			case f.short != "": // the mapping is in a comment, the short form shown
			case f.typ.Kind() == reflect.Struct:
				walk(prefix+f.name+".", f.typ, values)
			case f.typ.Kind() == reflect.Slice && f.typ.Elem().Kind() == reflect.Struct:
				var elements []*yaml.Node
				for _, v := range values {
					elements = append(elements, v.Content...)
				}
				walk(prefix+f.name+"[].", f.typ.Elem(), elements)
			}
		}
	}
	walk("", reflect.TypeOf(raw), doc.Content)
}

func valuesOf(mappings []*yaml.Node, key string) []*yaml.Node {
	var values []*yaml.Node
	for _, m := range mappings {
		for i := 0; i+1 < len(m.Content); i += 2 {
			if m.Content[i].Value == key {
				values = append(values, m.Content[i+1])
			}
		}
	}
	return values
}

// Flags and variables are part of what operators rely on.
func TestKeys(t *testing.T) {
	var got []string
	add := func(k key, prefix string) {
		if k.usage == "" { // lists of mappings have no flag
			got = append(got, k.variable(prefix))
			return
		}
		got = append(got, "--"+k.flag()+" "+k.variable(prefix))
	}
	for _, k := range keysOf(rawRelay{}) {
		add(k, relayPrefix)
	}
	for _, k := range keysOf(rawConnector{}) {
		add(k, connectorPrefix)
	}
	want := []string{
		"--hostname EBBGATE_RELAYD_HOSTNAME",
		"--listen-tls EBBGATE_RELAYD_LISTEN_TLS",
		"--listen-quic EBBGATE_RELAYD_LISTEN_QUIC",
		"--listen-http EBBGATE_RELAYD_LISTEN_HTTP",
		"--ingress-connect EBBGATE_RELAYD_INGRESS_CONNECT",
		"--ingress-socks5 EBBGATE_RELAYD_INGRESS_SOCKS5",
		"--ingress-https EBBGATE_RELAYD_INGRESS_HTTPS",
		"EBBGATE_RELAYD_INGRESS_PORTS",
		"--state-dir EBBGATE_RELAYD_STATE_DIR",
		"--state-key-file EBBGATE_RELAYD_STATE_KEY_FILE",
		"EBBGATE_RELAYD_STATE_POSTGRES",
		"--state-postgres-password-file EBBGATE_RELAYD_STATE_POSTGRES_PASSWORD_FILE",
		"--activity-keep EBBGATE_RELAYD_ACTIVITY_KEEP",
		"--tls-cert EBBGATE_RELAYD_TLS_CERT",
		"--tls-key EBBGATE_RELAYD_TLS_KEY",
		"--metrics EBBGATE_RELAYD_METRICS",
		"--log-level EBBGATE_RELAYD_LOG_LEVEL",
		"--log-format EBBGATE_RELAYD_LOG_FORMAT",
		"--resume-grace EBBGATE_RELAYD_RESUME_GRACE",
		"--relay EBBGATE_CONNECTOR_RELAY",
		"--state-dir EBBGATE_CONNECTOR_STATE_DIR",
		"--carriers EBBGATE_CONNECTOR_CARRIERS",
		"--proxy-mode EBBGATE_CONNECTOR_PROXY_MODE",
		"--proxy-url EBBGATE_CONNECTOR_PROXY_URL",
		"--proxy-username EBBGATE_CONNECTOR_PROXY_USERNAME",
		"--proxy-password-file EBBGATE_CONNECTOR_PROXY_PASSWORD_FILE",
		"--proxy-auth EBBGATE_CONNECTOR_PROXY_AUTH",
		"--proxy-bypass EBBGATE_CONNECTOR_PROXY_BYPASS",
		"EBBGATE_CONNECTOR_STORES",
		"--log-level EBBGATE_CONNECTOR_LOG_LEVEL",
		"--log-format EBBGATE_CONNECTOR_LOG_FORMAT",
		"--resume-grace EBBGATE_CONNECTOR_RESUME_GRACE",
		"--lanes-max EBBGATE_CONNECTOR_LANES_MAX",
		"--lanes-total EBBGATE_CONNECTOR_LANES_TOTAL",
		"--metrics EBBGATE_CONNECTOR_METRICS",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
